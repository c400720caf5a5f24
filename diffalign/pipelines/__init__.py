"""What one does with a model besides training it."""

from diffalign.pipelines.generate import ImageGenerator
from diffalign.pipelines.pictures import contact_sheet, save_picture, to_picture

__all__ = ["ImageGenerator", "contact_sheet", "save_picture", "to_picture"]
