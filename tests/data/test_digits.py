import pytest
import torch
from sklearn.datasets import load_digits

from carv_distill.data.digits import DIGITS, load_digits_images
from carv_distill.data.images import load_images
from carv_distill.data.sets import to_uint8
from carv_distill.errors import UserError


def test_digits_are_the_scans_in_minus_one_to_one() -> None:
    data = load_digits_images()
    assert data.images.shape == (1797, *DIGITS.shape)
    assert data.images.dtype == torch.float32
    assert data.labels.dtype == torch.int64
    assert (data.images.min(), data.images.max()) == (-1, 1)
    assert data.labels.unique().tolist() == list(range(DIGITS.classes))
    grey = torch.from_numpy(load_digits().images).float()
    torch.testing.assert_close((data.images[:, 0] + 1) * 8, grey, rtol=0, atol=0)


def test_to_uint8_truncates_as_edm_does() -> None:
    x = torch.tensor([-2.0, -1.0, -0.9999, 0.0, 0.5, 0.999, 1.0, 3.0])
    # 127.5 x + 128 = -127, 0.5, 0.51, 128, 191.75, 255.37, 255.5, 510.5
    assert to_uint8(x).tolist() == [0, 0, 0, 128, 191, 255, 255, 255]


def test_to_uint8_keeps_the_seventeen_grey_levels_apart_in_bfloat16() -> None:
    levels = torch.arange(17) / 8 - 1
    assert torch.equal(to_uint8(levels.bfloat16()), to_uint8(levels))
    # computed in bfloat16, 127.5 * 0.125 + 128 = 143.94 would round to 144
    assert to_uint8(torch.tensor(0.125, dtype=torch.bfloat16)) == 143


def test_load_images_by_name() -> None:
    assert load_images("digits").spec is DIGITS
    with pytest.raises(UserError, match=r"data\.name: no data set 'mnist' of labelled images; allowed"):
        load_images("mnist")
