"""The checkers of the lessons' exercises: each compares a learner's function with the kit's own on random inputs.

    marking.py     how an answer is marked: what is right, what went wrong in a learner's words, three hints
    first.py       lesson 00: sizes
    prompts.py     lesson 01: cosine similarity, eight-bit numbers, padding
    starts.py      lesson 02: noise and frames
    steps.py       lesson 03: velocity, Euler, guidance, shift
    attention.py   lesson 04: patches, rotary angles, attention
    bits.py        lesson 05: a Q3_K block, bits per weight, an fp8 row, the memory of a step
    pixels.py      lesson 06: decibels, how much is squeezed, which frames change
    lora.py        lesson 07: the best matrix of low rank, a LoRA's product, its scale, the merge
    references.py  lesson 08: what stays and what is painted over, the 64 channels of a mask, the context's shape
    running.py     lesson 09: minutes of the steps, whether a run fits
    comparing.py   lesson 10: when a comparison is fair, how sure a mean is
    training.py    lesson 11: the flow-matching loss, captions left out, averaged weights
    graphs.py      lesson 12: when a node runs, what a workflow's values mean

Every checker prints its verdict, never raises, and returns a function that works: the learner's where it is right, the
kit's own where it is not yet, so that a lesson runs to its end either way.
"""
