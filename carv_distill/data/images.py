"""From the name in a configuration to the images."""

from carv_distill.data.digits import load_digits_images
from carv_distill.data.spec import LabelledImages
from carv_distill.errors import UserError

NAMES = ("digits",)


def load_images(name: str) -> LabelledImages:
    """The data set called `name`.

    Raises:
        UserError: there is no such data set; the message lists those there are.
    """
    match name:
        case "digits":
            return load_digits_images()
        case _:
            raise UserError(f"data.name: no data set {name!r}; allowed: {', '.join(NAMES)}")
