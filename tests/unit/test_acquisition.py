"""Acquisition of lines of k-space against direct transforms and enumeration; real slices where nilearn is installed."""

import gzip
import importlib.util
import itertools
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.envs.fields import acquisition
from purerl.envs.fields.acquisition import Acquisition
from purerl.runs.render import painter
from purerl.testing import check_env

needs_nilearn = pytest.mark.skipif(not importlib.util.find_spec("nilearn"), reason="nilearn is not installed")


def heads(num=30, shape=(14, 11), seed=0):
    """Ellipses that grow from slice to slice, with noise."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    width, height = (np.linspace(*ends, num)[:, None, None] for ends in ((0.4, 0.9), (0.9, 0.5)))
    inside = (x / width) ** 2 + (y / height) ** 2 < 1
    return inside * (1 + 0.3 * np.random.default_rng(seed).random((num, *shape)))


def small(**options):
    return Acquisition(heads(), **{"size": 8, "num_lines": 3, "block": 4, "gap": 1, **options})


ENV = small()


def play(params, image, lines):
    obs, state = ENV.begin(image, params)

    def step(state, line):
        obs, state, reward, terminated, info = ENV.step_env(None, state, line, params)
        return state, (obs, reward, terminated, info["error"])

    return obs, *jax.lax.scan(step, state, lines)[1]


def transform(image, size):
    """The middle of the discrete Fourier transform of an image made square, by its definition, lines first."""
    side = max(image.shape)
    square = np.zeros((side, side))
    square[: image.shape[0], : image.shape[1]] = image
    wave = lambda k: np.exp(-2j * np.pi * k * np.arange(side) / side)
    frequencies = np.arange(size) - size // 2
    return np.array([[wave(k) @ square @ wave(m) for m in frequencies] for k in frequencies])


@pytest.mark.parametrize("size", [8, 7])
def test_k_space_by_its_definition(size):
    images = heads(3)
    kspace = acquisition.kspace_of(images, size)
    wanted = np.stack([transform(image, size) for image in images])
    wanted /= np.sqrt((np.abs(wanted) ** 2).sum((1, 2)).mean())
    np.testing.assert_allclose(kspace[..., 0] + 1j * kspace[..., 1], wanted, atol=1e-6)


def test_the_error_of_the_image_is_the_energy_of_lines_that_were_not_acquired():
    """Parseval's theorem, with images by a direct inverse; and the observation that shows the image."""
    params, lines = ENV.default_params, [4, 6, 1]
    grid = np.exp(2j * np.pi * np.outer(np.arange(8), np.arange(8) - 4) / 8)
    inverse = lambda k: grid @ k @ grid.T / 8
    errors = np.asarray(jax.jit(play)(params, 2, jnp.array(lines))[4])
    kspace = params.kspace[2, ..., 0] + 1j * params.kspace[2, ..., 1]
    whole = inverse(kspace)
    for t in range(3):
        acquired = np.isin(np.arange(8), lines[: t + 1])
        image = inverse(np.where(acquired[:, None], kspace, 0))
        error = (np.abs(image - whole) ** 2).sum() / (np.abs(whole) ** 2).sum()
        assert errors[t] == pytest.approx(error, abs=1e-6)
        seen = np.asarray(
            acquisition.zero_filled(jnp.asarray(params.kspace[2]), params.energy[2], jnp.asarray(acquired))
        )
        np.testing.assert_allclose(seen[..., 0], np.abs(image) * 8, atol=1e-5)
        np.testing.assert_array_equal(seen[..., 1], np.broadcast_to(acquired[:, None], (8, 8)))


def test_an_episode_against_a_loop():
    params = ENV.default_params
    energies = acquisition.line_energies(params.kspace.astype(float))
    first, obs, reward, terminated, error = jax.jit(play)(params, 5, jnp.array([3, 3, 4]))
    assert not first["seen"].any() and first["action_mask"].all()
    np.testing.assert_allclose(reward, [energies[5, 3], 0, energies[5, 4]], rtol=1e-5)
    np.testing.assert_allclose(error, 1 - np.cumsum(reward), atol=1e-6)
    assert terminated.tolist() == [False, False, True]
    assert (~obs["action_mask"]).astype(int).sum(1).tolist() == [1, 1, 2]
    absolute = (params.kspace[5].astype(float) ** 2).sum((1, 2))
    wanted = [0.0] * 16
    for line in (3, 4):
        wanted[line], wanted[8 + line] = 1.0, 1 + np.log10(absolute[line]) / 8
    np.testing.assert_allclose(obs["seen"][2], wanted, atol=1e-6)


def test_what_is_seen_does_not_depend_on_lines_that_were_not_acquired():
    params, lines = ENV.default_params, jnp.array([4, 2, 6])
    changed = np.array(params.kspace)
    changed[5, [0, 1, 3, 5, 7]] = 9.0
    for observe in (acquisition.energies_seen, acquisition.zero_filled):
        env = small(observe=observe)
        acquired = jnp.zeros(8, bool).at[lines].set(True)
        energy = acquisition.energy_of
        see = lambda kspace: env._observe(jnp.asarray(kspace[5]), energy(kspace[5]), acquired)
        np.testing.assert_array_equal(see(params.kspace), see(changed))


def test_the_oracle_and_the_best_fixed_order_against_all_subsets():
    energies = np.random.default_rng(0).dirichlet(np.full(7, 0.5), 9)
    for count in (1, 3, 6):
        subsets = list(itertools.combinations(range(7), count))
        errors = np.stack([1 - energies[:, list(s)].sum(1) for s in subsets])
        oracle = acquisition.error_of(acquisition.oracle_lines(energies, count), energies)[:, -1]
        fixed = acquisition.error_of(acquisition.best_fixed_order(energies, count), energies)[:, -1]
        np.testing.assert_allclose(oracle, errors.min(0), atol=1e-12)
        assert fixed.mean() == pytest.approx(errors.mean(1).min(), abs=1e-12)
        assert errors.mean() == pytest.approx(acquisition.random_error(7, count), abs=1e-12)


def test_baselines_in_the_environment():
    params = ENV.test_params
    energies = acquisition.line_energies(params.kspace.astype(float))
    num = len(energies)
    run = jax.jit(jax.vmap(play, (None, 0, 0)))
    for lines in (acquisition.oracle_lines(energies, 3), np.tile(acquisition.low_to_high(8, 3), (num, 1))):
        returns = np.asarray(run(params, np.arange(num), lines)[2]).sum(1)
        np.testing.assert_allclose(returns, 1 - acquisition.error_of(lines, energies)[:, -1], atol=1e-6)
    assert sorted(acquisition.low_to_high(8, 8)) == sorted(acquisition.equispaced(8, 8)) == list(range(8))
    assert all(size // 2 in acquisition.equispaced(size, k) for size in (7, 8, 64) for k in range(1, size + 1))


@pytest.mark.parametrize(("num", "length", "gap"), [(134, 10, 2), (30, 4, 1), (95, 7, 3), (27, 9, 0)])
def test_slices_of_test_are_apart_from_those_of_training(num, length, gap):
    train, test = acquisition.blocks(num, length, gap)
    assert np.abs(train[:, None] - test).min() == gap + 1
    assert len(set(train)) == len(train) and not set(train) & set(test) and max([*train, *test]) < num
    env_train, env_test = ENV.default_params.kspace, ENV.test_params.kspace
    assert len(env_train) == len(acquisition.blocks(30, 4, 1)[0]) and len(env_test) == len(
        acquisition.blocks(30, 4, 1)[1]
    )
    assert (env_train**2).sum((1, 2, 3)).mean() == pytest.approx(1, abs=1e-5)


def test_the_contract_and_the_picture(key):
    env = small(observe=acquisition.zero_filled)
    check_env(env, env.default_params, key)
    draw, _ = painter(env, env.default_params)
    _, state = env.reset_env(key, env.default_params)
    assert draw(state).shape[-1] == 3


@needs_nilearn
def test_real_slices():
    assert acquisition.mni_slices().shape == (134, 197, 233)
    env, params = purerl.make("Acquisition-v0")
    assert params.kspace.shape == (94, 64, 64, 2) and env.test_params.kspace.shape == (24, 64, 64, 2)
    train, test = (acquisition.line_energies(x.kspace.astype(float)) for x in (params, env.test_params))
    mean = lambda lines: acquisition.error_of(lines, test)[:, -1].mean()
    fixed, best = mean(acquisition.best_fixed_order(train, 12)), mean(acquisition.oracle_lines(test, 12))
    np.testing.assert_allclose([fixed, best], [0.042393, 0.040892], atol=1e-6)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (heads()[0], {}, r"shape \(14, 11\)"),
        (heads()[:0], {}, r"shape \(0, 14, 11\)"),
        (heads() * np.nan, {}, "finite"),
        (heads() * 0, {}, "empty image, number 0"),
        (heads()[:5], {}, "none is left for test"),
        (heads(), {"size": 15}, "size is 15; it must be at most 14"),
        (heads(), {"size": -8}, "size is -8"),
        (heads(), {"num_lines": 0}, "num_lines is 0"),
        (heads(), {"num_lines": 9}, "num_lines is 9; it must be at most 8"),
        (heads(), {"observe": "image"}, "observe is 'image'; it must be a function"),
        (heads(), {"block": 0}, "length is 0"),
        (heads(), {"gap": 4}, "none is left for test"),
        (heads(), {"gap": 9}, r"gap is 9; it must lie in \[0, 4\]"),
        (heads(), {"gap": -1}, r"gap is -1; it must lie in \[0, 4\]"),
        (heads(), {"gap": 0.5}, "gap is 0.5; it must be a whole number"),
    ],
)
def test_bad_arguments(images, options, message):
    with pytest.raises(ValueError, match=message):
        Acquisition(images, **{"size": 8, "num_lines": 3, "block": 4, "gap": 1, **options})


def test_bad_orders():
    energies = np.full((2, 4), 0.25)
    for lines in ([0, 0], [4], [-1], [0.0, 1.0]):
        with pytest.raises(ValueError, match="lines is"):
            acquisition.error_of(lines, energies)
    for function in (acquisition.oracle_lines, acquisition.best_fixed_order):
        with pytest.raises(ValueError, match=r"energies has shape \(2, 4\)"):
            function(energies, 5)
    for function in (acquisition.low_to_high, acquisition.equispaced, acquisition.random_error):
        with pytest.raises(ValueError, match=r"num_lines is 20; it must be at most 8, the lines there are"):
            function(8, 20)
        with pytest.raises(ValueError, match="size is 0; it must be a positive int"):
            function(0, 1)


def nifti(values, code=2, rank=3, shape=None, magic=b"n+1\0"):
    header = bytearray(352)
    header[:4] = struct.pack("<i", 348)
    shape = shape or values.shape
    header[40:56] = struct.pack("<8h", rank, *shape, *[1] * (7 - len(shape)))
    header[70:72], header[108:112], header[344:348] = struct.pack("<h", code), struct.pack("<f", 352), magic
    return bytes(header) + values.tobytes(order="F")


def test_files(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    plain, packed = tmp_path / "a.nii", tmp_path / "a.nii.gz"
    plain.write_bytes(nifti(values))
    packed.write_bytes(gzip.compress(nifti(values.astype("<f4"), 16)))
    np.testing.assert_array_equal(acquisition.read_nifti(plain), values)
    np.testing.assert_array_equal(acquisition.read_nifti(packed), values)
    bad = [b"", nifti(values)[:360], nifti(values, code=1), nifti(values, magic=b"ni1\0"), nifti(values, rank=2)]
    for raw in [*bad, nifti(values, shape=(2, 3, 0)), nifti(values, 2, 4, (2, 3, 2, 2))]:
        plain.write_bytes(raw)
        with pytest.raises(ValueError, match=r"a\.nii is not a NIfTI-1 image"):
            acquisition.read_nifti(plain)
    with pytest.raises(ValueError, match="is not a NIfTI-1 image"):
        acquisition.read_nifti(tmp_path / "missing.nii")
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        acquisition.slices_of(values[..., 0])


def test_an_empty_data_package(tmp_path, monkeypatch):
    acquisition.mni_slices.cache_clear()
    (tmp_path / "nilearn").mkdir()
    (tmp_path / "nilearn" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="not where it was expected in nilearn"):
        Acquisition()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package nilearn: pip install 'purerl\[data\]'"):
        Acquisition()


def test_bad_parameters(key):
    env = ENV
    _, state = env.reset_env(key, env.default_params)
    for changed, said in (
        ({"max_steps_in_episode": 0}, r"Acquisition: max_steps_in_episode is 0; it must lie in \[1, 8\]"),
        ({"max_steps_in_episode": 2.5}, r"Acquisition: max_steps_in_episode is 2.5; it must be a whole number"),
        ({"max_steps_in_episode": 9}, r"Acquisition: max_steps_in_episode is 9; it must lie in \[1, 8\]"),
        (
            {"kspace": np.zeros((3, 8, 7, 2))},
            r"Acquisition: kspace has shape \(3, 8, 7, 2\); it must be \(M, 8, 8, 2\)",
        ),
        ({"energy": np.ones((3, 8))}, r"Acquisition: energy has shape \(3, 8\); it must be \(\d+, 8\)"),
        (vars(acquisition.of_kspace(np.zeros((3, 8, 8, 2)), 3)), "no image empty"),
        ({"kspace": 2 * env.default_params.kspace}, "energy is not that of the lines of kspace"),
    ):
        params = env.default_params.replace(**changed)
        for call in (
            lambda: env.reset_env(key, params),
            lambda: env.step_env(key, state, 0, params),
        ):
            with pytest.raises(ValueError, match=said):
                call()
