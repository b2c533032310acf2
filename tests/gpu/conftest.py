"""What these tests share with those of text-to-3D."""

from tests.helpers.sds_modules import make_module, pipeline_folder

__all__ = ["make_module", "pipeline_folder"]
