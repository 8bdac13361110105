"""A Linear that holds only the weights that survive, in compressed rows."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse


class CsrLinear(nn.Module):
    """A Linear whose weight is a sparse matrix in compressed rows (CSR) with int32 indices.

    The product is matrix times transposed input: that is how MKL multiplies; the other way round
    took up to a hundred times as long. The weights can be trained, in float32 and float64.

    Args:
        in_features: size of an input.
        out_features: size of an output.
        num_weights: how many weights survive.
        bias: whether there is one.
        like: a tensor whose dtype and device the weights have.

    Shapes:
        ``[..., in_features]`` -> ``[..., out_features]``

    Example:
        >>> linear = nn.Linear(3, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = linear.weight.copy_(torch.tensor([[1., 2., 3.], [4., 5., 6.]]))
        >>> mask = torch.tensor([[True, False, False], [False, True, True]])
        >>> small = CsrLinear.of(linear, mask)
        >>> small
        CsrLinear(in_features=3, out_features=2, num_weights=3, bias=False)
        >>> small(torch.ones(1, 3)).detach()
        tensor([[ 1., 11.]])
    """

    crow_indices: Tensor
    col_indices: Tensor

    def __init__(
        self, in_features: int, out_features: int, num_weights: int, *, bias: bool, like: Tensor
    ) -> None:
        super().__init__()
        _say_beta_once()
        self.in_features = in_features
        self.out_features = out_features
        rows = torch.zeros(out_features + 1, dtype=torch.int32, device=like.device)
        columns = torch.zeros(num_weights, dtype=torch.int32, device=like.device)
        self.register_buffer("crow_indices", rows)
        self.register_buffer("col_indices", columns)
        self.values = nn.Parameter(like.new_zeros(num_weights))
        self.bias = nn.Parameter(like.new_zeros(out_features)) if bias else None

    @classmethod
    def of(cls, linear: nn.Linear, mask: Tensor) -> CsrLinear:
        """Return what is left of a Linear.

        Args:
            linear: the layer; it is not changed.
            mask: of its weight; what is true survives, whatever its value.
        """
        weight = linear.weight.detach()
        mask = mask.to(weight.device)
        kept = cls(
            linear.in_features,
            linear.out_features,
            int(mask.sum()),
            bias=linear.bias is not None,
            like=weight,
        )
        with torch.no_grad():
            kept.crow_indices[1:] = mask.sum(1).cumsum(0)
            kept.col_indices.copy_(mask.nonzero()[:, 1])
            kept.values.copy_(weight[mask])
            if kept.bias is not None:
                kept.bias.copy_(linear.bias)
        kept.values.requires_grad_(linear.weight.requires_grad)
        if kept.bias is not None:
            kept.bias.requires_grad_(linear.bias.requires_grad)
        return kept.train(linear.training)

    @property
    def num_weights(self) -> int:
        """How many weights survive."""
        return len(self.values)

    @property
    def weight(self) -> Tensor:
        """The weight as a dense matrix, for code that reads it instead of calling the layer."""
        return self._matrix().to_dense()

    def dense(self) -> nn.Linear:
        """Return the same layer as a Linear, with zeros where no weight survived."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(self.weight.detach(), self.values.requires_grad)
        if self.bias is not None:
            linear.bias = self.bias
        return linear.train(self.training)

    def check(self, name: str) -> None:
        """Make sure that the indices are those of a matrix: what was loaded may hold any numbers.

        Raises:
            ValueError: if they are not.
        """
        try:
            self._matrix(check=True)
        except RuntimeError:
            refuse(name, "indices out of range or order", "those of a sparse matrix")

    def forward(self, x: Tensor) -> Tensor:
        """Return the product with the weight, plus the bias."""
        if torch.compiler.is_exporting():  # which knows no sparse matrices
            return nn.functional.linear(x, self._scattered(), self.bias)
        columns = x.reshape(-1, self.in_features).T.contiguous()  # MKL is slower on a view
        matrix = self._matrix()
        if self.bias is None:
            product = matrix @ columns
        else:
            product = torch.addmm(self.bias[:, None], matrix, columns)
        return product.T.contiguous().view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"num_weights={self.num_weights}, bias={self.bias is not None}"
        )

    def _scattered(self) -> Tensor:
        """Return the dense weight by operations that a graph can hold."""
        lengths = self.crow_indices.diff()
        rows = torch.arange(self.out_features, device=lengths.device)
        rows = rows.repeat_interleave(lengths, output_size=self.num_weights)
        empty = self.values.new_zeros(self.out_features, self.in_features)
        return empty.index_put((rows, self.col_indices.long()), self.values)

    def _matrix(self, *, check: bool = False) -> Tensor:
        return torch.sparse_csr_tensor(
            self.crow_indices,
            self.col_indices,
            self.values,
            (self.out_features, self.in_features),
            check_invariants=check,
        )


def _say_beta_once() -> None:
    """Let torch say now, unheard, what it says of the first compressed tensor of a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)
