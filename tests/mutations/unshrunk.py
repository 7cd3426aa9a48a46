"""A pytest plugin for run.py: hypothesis stops at the first example that fails, and does not look for a smaller one."""

from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=[Phase.explicit, Phase.generate])
settings.load_profile("unshrunk")
