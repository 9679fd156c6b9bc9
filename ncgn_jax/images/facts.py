"""Says what images teach their model besides its weights."""

import dataclasses
from typing import ClassVar, Self

from ncgn_jax.images.sets import ImageDataset
from ncgn_jax.images.units import ImageUnits
from ncgn_jax.tasks.classes import count_classes


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """What the training images taught a model.

    Attributes:
      image_shape: Height, width, channels.
      class_names: Their classes; a single one counts as none.
      class_counts: Training images of each class.
      units: Units of the stored images.
    """

    relied_on: ClassVar[tuple[str, ...]] = ("image_shape", "class_names", "units")

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    units: ImageUnits

    def with_another_name(self) -> Self:
        """Returns facts with a name more, see `tasks.facts`."""
        return dataclasses.replace(
            self,
            class_names=(*self.class_names, "another"),
            class_counts=(*self.class_counts, 1),
        )


def learn_facts(dataset: ImageDataset) -> ImageFacts:
    """Finds the facts of a data set."""
    return ImageFacts(
        dataset.image_shape,
        tuple(dataset.class_names),
        count_classes(dataset.train_labels, dataset.class_names),
        dataset.units,
    )
