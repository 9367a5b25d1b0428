import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from research.errors import UserError
from research.training.transfer import Transfer, read_weights, transferred, with_given

PARAMS = {"body": {"kernel": jnp.zeros((2, 3))}, "head": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}
GIVEN = {"body/kernel": np.full((2, 3), 7.0, np.float32), "head/kernel": np.zeros((3, 10)), "other": np.zeros(1)}


def test_all_but_the_new_parameters_are_taken_over():
    given = transferred(Transfer("there"), GIVEN, [jax.eval_shape(lambda: PARAMS)])
    assert set(given) == {"body/kernel"}
    params = with_given(PARAMS, given)
    assert params["body"]["kernel"].tolist() == [[7.0] * 3] * 2
    assert params["head"]["kernel"].tolist() == [[1.0] * 4] * 3


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        (("^tail/",), r"transfer\.new '\^tail/' matches no parameter: the paths look like"),
        (("bias",), r"head/kernel is \(3, 10\) in there and \(3, 4\) here: use the model it was trained with, or add"),
        (("kernel",), "head/bias is absent in there"),
    ],
)
def test_what_does_not_fit_is_named(new, sentence):
    with pytest.raises(UserError, match=sentence):
        transferred(Transfer("there", new), GIVEN, [PARAMS])


def test_weight_files(tmp_path):
    save_file(GIVEN, tmp_path / "weights.safetensors")
    read = read_weights(tmp_path / "weights.safetensors")
    assert set(read) == set(GIVEN) and (read["body/kernel"] == 7).all()
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "weights.safetensors").read_bytes()[:50])
    for name in ("torn.safetensors", "missing.safetensors"):
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            read_weights(tmp_path / name)
