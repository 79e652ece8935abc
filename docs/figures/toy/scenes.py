"""The scenes of the pictures: balls, losses and hills. Strengths are in the loss's unit."""

from dataclasses import replace

from toy.ball import Scene
from toy.losses import four_valleys, moat, three_valleys, two_valleys, walled, wrong_way

# Figure 2.1. From this start the ball climbs towards the barrier and can't cross it. s/σ² is 20/3, the curvature of the
# loss at its minimum. A smaller s/σ² would leave the minimum there, and a larger one make a shallow minimum beside it.
STAYS = Scene(two_valleys, (0.25,), steps=80, strength=0.6, sigma=0.3)
LEAVES = replace(STAYS, start=(2 / 3,), steps=120, at=((2 / 3,),))

# Figure 1.1. The same hills, put at the same steps, on a slope that falls for ever and on one that rises again.
RIGHT_WAY = Scene(wrong_way, (0.3,), steps=1100, strength=0.5, sigma=1.0)
WRONG_WAY = replace(RIGHT_WAY, start=(-0.3,))
FURTHER = replace(WRONG_WAY, store=(300, 500, 700))
BACK = replace(FURTHER, loss=walled)

# Hill after hill. The noise decides on which side of a hill the ball goes down, so the number of hills depends on the
# seed: for the seeds 0 to 19, with a hill every 150 steps, two to nine hills lead to the third of three valleys.
ONE_VALLEY = Scene(three_valleys, (-0.35,), steps=405, strength=1.1, sigma=0.35, seed=1)
VALLEYS = replace(ONE_VALLEY, store=(99, 198, 297))
ONE_OF_FOUR = Scene(four_valleys, (0.5, 0.5), steps=1050, strength=2.0, sigma=1.5, noise=0.1)
ALL_FOUR = replace(ONE_OF_FOUR, store=(150, 300, 450, 600, 750, 900))

# Hill after hill in a ring: of the seeds 0 to 19 none leaves it with fewer than four hills. With the same hill where
# the ball can only go inwards and outwards, 18 leave with one.
ALONG = Scene(moat, (1.9, 1.2), steps=600, strength=6.0, sigma=0.5, store=(100, 200, 300, 400, 500))
ACROSS = replace(ALONG, start=(2.0,), steps=200, at=((2.0,),), store=())  # the moat of one parameter alone
