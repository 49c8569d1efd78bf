"""Noise becomes a clean latent: schedules say where to stop, solvers how to move, `denoise` yields the steps.

    schedules.py   which noise levels: ComfyUI's KSampler grids, diffusers' grid, Wan's own
    solvers.py     how to get from one level to the next: euler, heun, dpmpp_2m, uni_pc
    denoise.py     settings, guidance, and the generator of steps

Nothing is imported here, so that `sampling.denoise` stays the module and `denoise` its function.
"""
