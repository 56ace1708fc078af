'use strict';
// What Bokeh's own tools do not have: switches of what is shown, stretches, blinking, profiles, places on the sky.
const tiledsky = (() => {
  const facts = JSON.parse(document.getElementById('facts').textContent);
  const find = (name) => Bokeh.documents[0].get_model_by_name(name);
  const every = (selector, action) => document.querySelectorAll(selector).forEach(action);
  const panels = Object.keys(facts.panels);
  const parts = {
    objects: ['objects-below', 'objects-half', 'objects-extent', 'objects-numbers'],
    taken: ['taken-below', 'taken-above', 'taken-numbers'],
    checks: ['checks-below', 'checks-above', 'checks-numbers'],
    masked: ['masked'], boxes: ['boxes-x', 'boxes-y'],
  };

  function show(layer, on) {
    for (const part of parts[layer]) for (const panel of panels) {
      const mark = find(`${part}-${panel}`);
      if (mark) mark.visible = on;
    }
  }

  function boxes() {
    // lines closer than a few pixels of the screen are grey and say nothing
    const plot = find(panels[0]), wide = (plot.x_range.end - plot.x_range.start) / facts.box;
    const on = document.querySelector('[data-layer=boxes]').checked, room = (plot.inner_width || 400) / wide >= 4;
    show('boxes', on && room);
    document.getElementById('boxes-told').hidden = !on || room;
  }

  function stretch(key) {
    document.getElementById('planes').dataset.stretch = key;
    for (const panel of panels) {
      const scale = facts.panels[panel].scales[key];
      if (!scale) continue;
      const colors = find(`colors-${panel}`), {offset, step} = colors.tags[0];
      colors.tags[1] ??= colors.palette;
      const base = colors.tags[1], n = 2048;
      colors.setv({
        low: (scale.low - offset) / step + 1, high: (scale.high - offset) / step + 1,
        palette: !scale.bend ? base : Array.from({length: n}, (_, k) =>
          base[Math.round(Math.asinh(k / (n - 1) * scale.bend) / Math.asinh(scale.bend) * (base.length - 1))]),
      });
    }
  }

  let timer = 0;
  function blink(on) {
    const over = find('blink'), heading = document.querySelector('#panel-science h3');
    clearInterval(timer);
    const turn = (seen) => { over.visible = seen; heading.textContent = seen ? facts.panels.subtracted.title : facts.panels.science.title; };
    turn(false);
    if (on) timer = setInterval(() => turn(!over.visible), 900);
  }

  // x, y, z on the sky: linear in the pixels between the places of the table
  function vector(x, y) {
    const table = facts.sky;
    const [u, v] = [['x', x], ['y', y]].map(([axis, p]) => (p - table[axis][0]) / table[axis][1]);
    const i = Math.min(Math.max(Math.floor(u), 0), table.count - 2), j = Math.min(Math.max(Math.floor(v), 0), table.count - 2);
    const corners = [[j, i, (1 - u + i) * (1 - v + j)], [j, i + 1, (u - i) * (1 - v + j)],
      [j + 1, i, (1 - u + i) * (v - j)], [j + 1, i + 1, (u - i) * (v - j)]];
    const sum = [0, 0, 0];
    for (const [row, column, weight] of corners) {
      const one = table.vectors[row][column];
      if (!one) return null;
      for (let k = 0; k < 3; k++) sum[k] += weight * one[k];
    }
    return sum;
  }

  function degrees(x, y) {
    const at = facts.sky && vector(x, y);
    if (!at) return null;
    const turn = 180 / Math.PI;
    return [(Math.atan2(at[1], at[0]) * turn + 360) % 360, Math.atan2(at[2], Math.hypot(at[0], at[1])) * turn];
  }

  function sky(x, y) {
    const at = degrees(x, y);
    return at ? `${at[0].toFixed(6)}°, ${at[1] < 0 ? '−' : '+'}${Math.abs(at[1]).toFixed(6)}°` : 'not on the sky';
  }

  // medians of the cells of a panel in rings about a position
  function rings(panel, x, y, width, count) {
    const {size, x0, y0} = facts.panels[panel], {offset, step} = find(`colors-${panel}`).tags[0];
    const cells = find(`image-${panel}`).data_source.data.image[0], [ny, nx] = cells.shape;
    const found = Array.from({length: count}, () => []), reach = width * count;
    const range = (middle, start, n) => [Math.max(0, Math.floor((middle - reach - start) / size)), Math.min(n, Math.ceil((middle + reach - start) / size) + 1)];
    const [i0, i1] = range(x, x0, nx), [j0, j1] = range(y, y0, ny);
    for (let j = j0; j < j1; j++) for (let i = i0; i < i1; i++) {
      const code = cells[j * nx + i], k = Math.floor(Math.hypot(x0 + (i + 0.5) * size - 0.5 - x, y0 + (j + 0.5) * size - 0.5 - y) / width);
      if (code && k < count) found[k].push((code - 1) * step + offset);
    }
    const r = [], value = [];
    found.forEach((ring, k) => {
      if (!ring.length) return;
      ring.sort((a, b) => a - b);
      r.push((k + 0.5) * width);
      value.push((ring[(ring.length - 1) >> 1] + ring[ring.length >> 1]) / 2);
    });
    return {r, value};
  }

  function profile(x, y) {
    const plot = find(panels[0]), [ny, nx] = facts.shape;
    const seen = Math.min(plot.x_range.end - plot.x_range.start, plot.y_range.end - plot.y_range.start, nx, ny);
    const cell = Math.max(...['science', 'subtracted'].filter((p) => facts.panels[p]).map((p) => facts.panels[p].size));
    const count = Math.min(40, Math.max(6, Math.floor(seen / 5 / cell))), width = Math.max(cell, seen / 5 / count);
    for (const panel of ['science', 'background', 'subtracted']) {
      const source = find(`profile-${panel}`);
      // rings of a panel of larger cells are not narrower than these
      const fine = facts.panels[panel] && Math.max(width, facts.panels[panel].size);
      if (source && fine) source.data = rings(panel, x, y, fine, Math.ceil(width * count / fine));
    }
    for (const name of ['profile-light', 'profile-residual']) find(name).x_range.setv({start: 0, end: width * count});
    find('chosen').data = {x: [x], y: [y]};
    const said = `x ${x.toFixed(0)}, y ${y.toFixed(0)}`, at = degrees(x, y);
    document.getElementById('profile-place').textContent = at ? `${said} (RA, Dec ${sky(x, y)})` : said;
  }

  function go(x, y, half) {
    const plot = find(panels[0]), [ny, nx] = facts.shape, shape = (plot.y_range.end - plot.y_range.start) / (plot.x_range.end - plot.x_range.start);
    const across = Math.min(half, nx / 2);
    plot.x_range.setv({start: x - across, end: x + across});
    plot.y_range.setv({start: y - across * shape, end: y + across * shape});
    profile(x, y);
    document.getElementById('planes').scrollIntoView();
  }

  function save(name, href) {
    const link = document.createElement('a');
    link.href = href;
    link.download = name;
    link.click();
  }

  function begin() {
    if (typeof Bokeh === 'undefined' || !Bokeh.documents.length) return setTimeout(begin, 50);
    every('[data-layer]', (box) => {
      const change = () => box.dataset.layer === 'boxes' ? boxes() : show(box.dataset.layer, box.checked);
      box.addEventListener('change', change);
      change();
    });
    every('#stretch', (choice) => { choice.addEventListener('change', () => stretch(choice.value)); stretch(choice.value); });
    every('#blink', (box) => { box.checked = false; box.addEventListener('change', () => blink(box.checked)); });
    every('[data-go]', (button) => button.addEventListener('click', () => go(...button.dataset.go.split(' ').map(Number))));
    every('[data-save]', (button) => button.addEventListener('click', () => {
      const {save: name, from} = button.dataset;
      if (from) save(name, URL.createObjectURL(new Blob([JSON.parse(document.getElementById(from).textContent)])));
      else save(name, button.closest('figure').querySelector('img').src);
    }));
    if (find('profile-science') || find('profile-subtracted')) profile(...facts.start);
    document.documentElement.dataset.ready = '';
  }
  document.addEventListener('DOMContentLoaded', begin);
  return {sky, profile, degrees, boxes};
})();
