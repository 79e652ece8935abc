"""The colours of all pictures: Okabe and Ito's (2008), which the colour-blind can tell apart; and two for ink."""

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
INK, GREY = "#222222", "#767676"
OKABE_ITO = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)  # but for their yellow, which is no line on white, and black
