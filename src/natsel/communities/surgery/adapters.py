"""Modules whose Python code must follow when they lose populations: one function per class.

An adapter looks at nothing but the shapes of the tensors and the numbers that the dense module
had, so that a model that is loaded is adapted just as one that was cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from natsel.communities.surgery.attention import HeadwiseAttention
from natsel.communities.surgery.own_numbers import OwnNumbers
from natsel.communities.surgery.recompute import recompute
from natsel.communities.surgery.said import numbers_said, repeat_numbers
from natsel.communities.surgery.scans import follow_scan
from natsel.communities.surgery.states import follow_state
from natsel.communities.surgery.widths import leave_widths_open

Adapter = Callable[[Any], None]
ADAPTERS: dict[str, Adapter] = {}


def adapter(*classes: str | type) -> Callable[[Adapter], Adapter]:
    """Register what makes the modules of a class follow the shapes of their tensors.

    The function gets a module whose parameters and buffers have been cut, and sets the numbers
    that repeat their sizes. It is found by the name of the class or of one that it inherits from,
    so that nothing is imported for it.

    Args:
        classes: classes, or names such as ``"transformers.pytorch_utils.Conv1D"``.

    Returns:
        A decorator that leaves the function as it is.

    Example:
        >>> @adapter("my_package.layers.Scale")
        ... def scale(module):
        ...     module.num_channels = len(module.weight)
        >>> del ADAPTERS["my_package.layers.Scale"]
    """

    def register(function: Adapter) -> Adapter:
        for kind in classes:
            ADAPTERS[kind if isinstance(kind, str) else _name(kind)] = function
        return function

    return register


def adapt(model: nn.Module) -> None:
    """Let every module of a model follow the shapes of its tensors, in place."""
    recompute(model)
    modules = list(model.modules())
    said = numbers_said(model)
    for module in modules:
        leave_widths_open(module)
    for module in modules:
        for kind in type(module).__mro__:
            function = ADAPTERS.get(_name(kind))
            if function is not None:
                function(module)
                break
    repeat_numbers(model, said)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@adapter(nn.Linear)
def _linear(module: nn.Linear) -> None:
    module.out_features, module.in_features = module.weight.shape


@adapter(nn.Bilinear)
def _bilinear(module: nn.Bilinear) -> None:
    module.out_features, module.in1_features, module.in2_features = module.weight.shape


@adapter("transformers.pytorch_utils.Conv1D")
def _conv1d(module: Any) -> None:
    module.nx, module.nf = module.weight.shape


@adapter(nn.Embedding)
def _embedding(module: nn.Embedding) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


@adapter(nn.PReLU)
def _prelu(module: nn.PReLU) -> None:
    module.num_parameters = module.weight.shape[0]


@adapter(_NormBase)
def _batch_norm(module: _NormBase) -> None:
    held = module.weight if module.weight is not None else module.running_mean
    if held is not None:
        module.num_features = held.shape[0]


@adapter(nn.GroupNorm)
def _group_norm(module: nn.GroupNorm) -> None:
    if module.weight is not None:
        per_group = module.num_channels // module.num_groups
        module.num_channels = module.weight.shape[0]
        module.num_groups = module.num_channels // per_group


@adapter(nn.LayerNorm, nn.RMSNorm)
def _layer_norm(module: nn.LayerNorm) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


@adapter(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _convolution(module: nn.modules.conv._ConvNd) -> None:
    first, second = module.weight.shape[0], module.weight.shape[1]
    if module.groups > 1 and module.groups == module.in_channels:
        multiplier = module.out_channels // module.groups
        module.groups = first // multiplier
    module.in_channels, module.out_channels = second * module.groups, first


@adapter(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def _transposed(module: nn.modules.conv._ConvNd) -> None:
    first, second = module.weight.shape[0], module.weight.shape[1]
    module.in_channels, module.out_channels = first, second * module.groups


@adapter(nn.RNNBase)
def _recurrent(module: nn.RNNBase) -> None:
    weight: Any = module.weight_hh_l0
    entering: Any = module.weight_ih_l0
    module.hidden_size, module.input_size = weight.shape[1], entering.shape[1]
    module._init_flat_weights()  # it keeps a list of its parameters besides


@adapter(nn.RNNCellBase)
def _cell(module: nn.RNNCellBase) -> None:
    module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]


@adapter(nn.Module)
def _of_the_library(module: Any) -> None:
    """Let attention, experts and their routers of the transformers library follow their number.

    Where widths are no whole blocks of 16 bytes, which the fused product of all experts wants,
    they run one by one. Numbers of other libraries' modules are not guessed at.
    """
    if not type(module).__module__.startswith("transformers."):
        return
    _query_heads(module)
    held = [p for p in module._parameters.values() if p is not None]
    if held and type(getattr(module, "num_experts", None)) is int:
        module.num_experts = held[0].shape[0]
    if not hasattr(getattr(module, "config", None), "_experts_implementation"):
        return
    stacks = [p for p in held if p.dim() == 3]
    if any(size * p.element_size() % 16 for p in stacks for size in p.shape[1:]):
        module.config._experts_implementation = "eager"


def _query_heads(module: Any) -> None:
    """Let attention of the transformers library follow its number of query heads, also unread.

    Which of the ways to attend reads the number is chosen at each call: by the mask, say.
    """
    heads = getattr(module, "num_key_value_groups", None)
    queries, keys = getattr(module, "q_proj", None), getattr(module, "k_proj", None)
    if type(heads) is not int or not (
        isinstance(queries, nn.Linear) and isinstance(keys, nn.Linear)
    ):
        return
    # Of the dense module, for its layers are adapted after it: queries may be made with gates.
    per_group = queries.out_features // keys.out_features // heads
    if per_group:
        module.num_key_value_groups = queries.weight.shape[0] // keys.weight.shape[0] // per_group


@adapter("transformers.models.gpt_bigcode.modeling_gpt_bigcode.GPTBigCodeAttention")
def _one_head_of_keys(module: Any) -> None:
    if module.multi_query:
        module.num_heads = module.c_proj.weight.shape[1] // module.head_dim
        module.embed_dim = module.split_size = module.num_heads * module.head_dim
        module.num_key_value_groups = module.num_heads


@adapter(nn.MultiheadAttention)
def _attention(module: nn.MultiheadAttention) -> None:
    HeadwiseAttention.follow(module)


@adapter(
    "transformers.models.phi3.modeling_phi3.Phi3Attention",
    "transformers.models.phi4_multimodal.modeling_phi4_multimodal.Phi4MultimodalAttention",
)
def _heads_of_the_configuration(module: Any) -> None:
    """Tell attention that asks the configuration of its model how many heads it has."""
    heads = module.o_proj.weight.shape[1] // module.head_dim
    num_made = module.qkv_proj.weight.shape[0] // module.head_dim
    module.num_key_value_heads = (num_made - heads) // 2
    module.num_key_value_groups = heads // module.num_key_value_heads
    if heads != module.config.num_attention_heads:
        module.config = OwnNumbers(module.config, num_attention_heads=heads)


@adapter("transformers.models.rwkv.modeling_rwkv.RwkvSelfAttention")
def _time_mixing(module: Any) -> None:
    follow_state(module)


@adapter(
    "transformers.models.bamba.modeling_bamba.BambaMixer",
    "transformers.models.falcon_h1.modeling_falcon_h1.FalconH1Mixer",
    "transformers.models.granitemoehybrid.modeling_granitemoehybrid.GraniteMoeHybridMambaLayer",
    "transformers.models.mamba2.modeling_mamba2.Mamba2Mixer",
    "transformers.models.nemotron_h.modeling_nemotron_h.NemotronHMamba2Mixer",
    "transformers.models.zamba2.modeling_zamba2.Zamba2MambaMixer",
)
def _scan(module: Any) -> None:
    follow_scan(module)


@adapter("timm.models.mambaout.GatedConvBlock")
def _gated_convolution(module: Any) -> None:
    """Half of what it makes gates the other half, of which the last part is convolved."""
    width, convolved = module.fc2.weight.shape[1], module.conv.weight.shape[0]
    module.split_indices = (width, width - convolved, convolved)
