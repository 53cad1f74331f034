"""Many runs: grids of settings, run side by side, tabulated over seeds."""
