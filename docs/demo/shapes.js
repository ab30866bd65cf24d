// Digits as strokes: points (x, y) in a box 0.6 wide and 1 high.

/** Points on an ellipse, from an angle to another, in turns from the right. */
function arc(x, y, width, height, from, to) {
  const count = 24;
  return Array.from({ length: count + 1 }, (_, i) => {
    const angle = 2 * Math.PI * (from + (to - from) * i / count);
    return [x + width * Math.cos(angle), y + height * Math.sin(angle)];
  });
}

export const SHAPES = [
  [arc(.3, .5, .25, .44, -.25, .75)],
  [[[.12, .28], [.36, .06], [.36, .94]]],
  [[...arc(.3, .3, .23, .24, -.5, .1), [.06, .92], [.56, .92]]],
  [[...arc(.27, .28, .23, .22, -.42, .22), ...arc(.27, .71, .27, .23, -.22, .4)]],
  [[[.34, .06], [.06, .62], [.56, .62]], [[.42, .36], [.38, .94]]],
  [[[.52, .08], [.14, .08], [.1, .46], ...arc(.27, .67, .27, .26, -.33, .38)]],
  [[[.3, .04], [.12, .4], ...arc(.31, .72, .23, .22, -.5, .5)]],
  [[[.06, .08], [.54, .08], [.24, .94]], [[.16, .5], [.48, .5]]],
  [[...arc(.3, .28, .2, .21, .25, 1.25), ...arc(.3, .72, .24, .22, -.25, .75)]],
  [[...arc(.28, .3, .22, .23, 0, -1), [.5, .3], [.46, .6], [.34, .94]]],
];
