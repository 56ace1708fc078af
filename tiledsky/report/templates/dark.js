'use strict';
// Figures of Bokeh follow the reader's wish for light or dark, as the page does.
(() => {
  const wish = matchMedia('(prefers-color-scheme: dark)');

  function paint() {
    const ink = wish.matches ? '#c3ced8' : '#444444';
    for (const plot of Bokeh.documents[0].roots()) {
      plot.border_fill_color = null;
      if (plot.tags.includes('lines')) plot.background_fill_color = wish.matches ? '#1d2a36' : '#ffffff';
      for (const grid of plot.center) if (grid.type === 'Grid') grid.grid_line_color = wish.matches ? '#33424f' : '#e5e5e5';
      for (const part of plot.above) if (part.type === 'Legend') part.label_text_color = ink;
      for (const axis of [...plot.below, ...plot.left]) axis.setv({
        axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: ink, major_tick_line_color: ink});
    }
  }

  function begin() {
    if (typeof Bokeh === 'undefined' || !Bokeh.documents.length) return setTimeout(begin, 50);
    wish.addEventListener('change', paint);
    paint();
    document.documentElement.dataset.painted = '';
  }
  document.addEventListener('DOMContentLoaded', begin);
})();
