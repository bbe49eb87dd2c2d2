"""Every environment that `purerl.make` knows, against the contract of environments, by random play."""

import gymnax
import jax
import jax.numpy as jnp
import pytest
import zoo

import purerl
from purerl.envs import wrappers
from purerl.testing import check_env

IDS = [env_id for env_id in gymnax.registered_envs if env_id != "MNISTBandit-bsuite"]
FEW = ("CartPole-v1", "Pendulum-v1", "Breakout-MinAtar", *wrappers._UNDERSTATED)


@pytest.mark.parametrize("env_id", zoo.params(IDS, wide=set(IDS) - set(FEW)))
def test_every_registered_environment_keeps_the_contract(env_id, key):
    env, env_params = purerl.make(env_id)
    check_env(env, env_params, key)
    obs, _ = jax.eval_shape(lambda key: env.reset(key, env_params), key)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(obs))


@pytest.mark.wide
@pytest.mark.parametrize("env_id", wrappers._UNDERSTATED)
def test_bounds_that_we_widen_are_still_wrong_in_gymnax(env_id, key):
    """When this fails, gymnax has mended its declaration: take the id out of `_UNDERSTATED`."""
    with pytest.raises(AssertionError, match=r"lies outside of"):
        check_env(*gymnax.make(env_id), key)
