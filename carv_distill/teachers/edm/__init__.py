"""The networks of the published EDM teachers, with the names and shapes of their files.

DDPM++ and NCSN++ (:class:`SongUNet`), ADM (:class:`DhariwalUNet`): saved students name them by this package.

Source: Karras et al. 2022 (EDM), appendix F, after Song et al. 2021 (score SDE), appendix H, and Dhariwal &
Nichol 2021, appendix.
"""

from .networks import DhariwalUNet, SongUNet

__all__ = ["DhariwalUNet", "SongUNet"]
