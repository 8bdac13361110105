"""What is stated of each image data set that is read from files."""

from __future__ import annotations

from typing import NamedTuple

from natsel.common.registry import Registry


class Source(NamedTuple):
    """The layout of a data set and its statistics.

    Attributes:
        hub: its name on the Hugging Face hub.
        image_column: where the parquet files keep the encoded images.
        label_column: where they keep the labels.
        shape: of each image, (C, H, W).
        classes: a name for each label.
        mean: of each channel over the training images, on a scale of 0 to 255.
        std: of each channel over the training images, on a scale of 0 to 255.
    """

    hub: str
    image_column: str
    label_column: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


SOURCES: Registry[Source] = Registry(
    "name",
    {
        "mnist": Source(
            hub="ylecun/mnist",
            image_column="image",
            label_column="label",
            shape=(1, 28, 28),
            classes=tuple("0123456789"),
            mean=(0.1307 * 255,),
            std=(0.3081 * 255,),
        ),
        "cifar10": Source(
            hub="uoft-cs/cifar10",
            image_column="img",
            label_column="label",
            shape=(3, 32, 32),
            classes=(
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),
            mean=(0.4914 * 255, 0.4822 * 255, 0.4465 * 255),
            std=(0.2470 * 255, 0.2435 * 255, 0.2616 * 255),
        ),
    },
)
