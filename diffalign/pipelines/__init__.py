"""What one does with a model besides training it."""

from diffalign.backbones import replace_folder
from diffalign.pipelines.drawings import draw_pictures
from diffalign.pipelines.generate import ImageGenerator
from diffalign.pipelines.pictures import contact_sheet, save_picture, to_picture

__all__ = ["ImageGenerator", "contact_sheet", "draw_pictures", "replace_folder", "save_picture", "to_picture"]
