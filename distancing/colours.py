"""The colours of all figures: those of Okabe and Ito (2008), which colour-blind readers can tell apart, and greys."""

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
INK, GREY = "#222222", "#767676"
# without their black, and their yellow, which is too light for a line on white
OKABE_ITO = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
