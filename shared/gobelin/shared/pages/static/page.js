// A page's few scripts: theme, relative times, charts, and taking in what has changed.
"use strict";
(function () {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // ---------------------------------------------------------------- theme
  function isDark() { return root.dataset.theme ? root.dataset.theme === "dark" : dark.matches; }
  function showTheme(button) {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
  }
  function themeButton() {
    const button = document.getElementById("theme");
    if (!button) return;
    button.hidden = false;
    showTheme(button);
    button.addEventListener("click", function () {
      root.dataset.theme = isDark() ? "light" : "dark";
      try { localStorage.setItem("gobelin-theme", root.dataset.theme); } catch { /* for now only */ }
      showTheme(button);
      drawAll(true);
    });
    dark.addEventListener("change", function () { showTheme(button); drawAll(true); });
  }

  // ---------------------------------------------------------------- times
  function lasting(s) {
    s = Math.max(0, Math.round(s));
    if (s < 60) return s + " s";
    const steps = [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]];
    for (const [unit, size, below, step] of steps) {
      if (s >= size) {
        const rest = Math.floor((s % size) / step);
        return Math.floor(s / size) + " " + unit + (rest ? " " + rest + " " + below : "");
      }
    }
    return "";
  }
  let skew = 0; // of the server's clock against ours, seconds
  function tick() {
    const now = Date.now() / 1000 + skew;
    for (const time of document.querySelectorAll("time[data-at]")) {
      const gone = now - Number(time.dataset.at);
      if (!time.title) time.title = time.textContent;
      time.textContent = gone < 0 ? "in " + lasting(-gone) : lasting(gone) + " ago";
    }
  }

  // ---------------------------------------------------------------- charts
  const drawn = new Map(); // element → uPlot
  const dashes = [[], [6, 4], [2, 3], [8, 3, 2, 3]];
  function colour(name) { return getComputedStyle(root).getPropertyValue(name).trim(); }
  function short(value) {
    if (value == null) return "–";
    const size = Math.abs(value);
    if (size >= 1e9) return (value / 1e9).toPrecision(3) + "G";
    if (size >= 1e6) return (value / 1e6).toPrecision(3) + "M";
    if (size >= 1e4) return (value / 1e3).toPrecision(3) + "k";
    return size && size < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(4)));
  }
  function draw(figure) {
    const place = figure.querySelector(".plot");
    const told = JSON.parse(place.dataset.told);
    const soft = colour("--soft"), line = colour("--line");
    const grid = { stroke: line, width: 1 };
    const axis = { stroke: soft, grid, ticks: grid, font: "11px system-ui" };
    const series = [{ label: told.xLabel }];
    const data = [told.x];
    told.lines.forEach(function (one, i) {
      series.push({
        label: one.label, stroke: colour("--c" + (i % 4 + 1)), width: 2, dash: dashes[i % 4],
        spanGaps: true, points: { show: told.x.length < 40, size: 5 },
        value: function (_, value) { return short(value); },
      });
      data.push(one.values);
    });
    told.levels.forEach(function (one) {
      series.push({
        label: one.label, stroke: soft, width: 1, dash: [3, 5], points: { show: false },
        value: function (_, value) { return short(value); },
      });
      data.push(told.x.map(function () { return one.value; }));
    });
    const width = Math.max(220, place.clientWidth);
    const plot = new uPlot({
      width, height: 165, series, cursor: { points: { size: 6 } },
      scales: { x: { time: false } },
      axes: [
        Object.assign({ values: function (_, all) { return all.map(function (v) { return v % 1 ? "" : String(v); }); } }, axis),
        Object.assign({ size: 56, values: function (_, all) { return all.map(short); } }, axis),
      ],
      legend: { live: true },
    }, data, place);
    const last = told.x.length - 1;
    function rest() { if (plot.cursor.idx == null) plot.setLegend({ idx: last }); }
    plot.over.addEventListener("mouseleave", function () { setTimeout(rest, 0); });
    rest();
    for (const canvas of place.querySelectorAll("canvas")) canvas.setAttribute("aria-hidden", "true");
    drawn.set(figure, plot);
  }
  function undraw(figure) {
    const plot = drawn.get(figure);
    if (plot) { plot.destroy(); drawn.delete(figure); }
  }
  const seen = typeof IntersectionObserver === "undefined" ? null : new IntersectionObserver(function (entries) {
    for (const entry of entries) {
      if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target);
    }
  }, { rootMargin: "200px" });
  function drawAll(again) {
    for (const [figure, plot] of drawn) if (again || !figure.isConnected) { plot.destroy(); drawn.delete(figure); }
    for (const figure of document.querySelectorAll("figure.chart")) {
      if (!seen) { if (!drawn.has(figure)) draw(figure); continue; }
      seen.unobserve(figure);
      seen.observe(figure);
    }
  }
  let width = innerWidth;
  addEventListener("resize", function () {
    if (innerWidth === width) return;
    width = innerWidth;
    for (const [figure, plot] of drawn) plot.setSize({ width: Math.max(220, figure.querySelector(".plot").clientWidth), height: 165 });
  });

  // ---------------------------------------------------------------- live
  function listen() {
    const live = document.getElementById("live");
    if (!live || typeof EventSource === "undefined") return;
    const state = document.getElementById("link");
    const events = new EventSource(live.dataset.events);
    let told = null, pending = false;
    function news(version) {
      if (told !== null && version === told) return;
      const first = told === null;
      told = version;
      if (!first || live.dataset.version !== version) refresh();
    }
    function refresh() {
      if (document.hidden) { pending = true; return; }
      pending = false;
      htmx.trigger(live, "gobelin:changed");
    }
    events.addEventListener("hello", function (event) { state.textContent = "live"; state.className = "pill good"; news(event.data); });
    events.addEventListener("changed", function (event) { news(event.data); });
    events.addEventListener("error", function () { state.textContent = "not connected"; state.className = "pill bad"; });
    document.addEventListener("visibilitychange", function () { if (!document.hidden && pending) refresh(); });
    addEventListener("pagehide", function () { events.close(); });
  }
  const opened = new Map(); // id of a part → ids of its open details
  document.addEventListener("htmx:oobBeforeSwap", function (event) {
    const old = event.detail.target, fresh = event.detail.fragment.firstElementChild;
    if (old && fresh && old.dataset.stamp && old.dataset.stamp === fresh.dataset.stamp) {
      event.detail.shouldSwap = false;
      return;
    }
    opened.set(old.id, Array.from(old.querySelectorAll("details[open]"), function (one) { return one.id; }));
    for (const figure of old.querySelectorAll("figure.chart")) undraw(figure);
  });
  document.addEventListener("htmx:oobAfterSwap", function (event) {
    for (const id of opened.get(event.detail.target.id) || []) {
      const one = document.getElementById(id);
      if (one) one.open = true;
    }
  });
  let urgent = null;
  function announce() {
    const now = Array.from(document.querySelectorAll(".alerts li"), function (li) { return li.dataset.code; }).join();
    const place = document.getElementById("announced");
    if (urgent !== null && now !== urgent && place) {
      const first = document.querySelector(".alerts li .what");
      place.textContent = first ? first.textContent : "Nothing needs you any more.";
    }
    urgent = now;
  }
  document.addEventListener("htmx:afterSettle", function () { drawAll(false); tick(); announce(); });

  document.addEventListener("DOMContentLoaded", function () {
    const live = document.getElementById("live");
    if (live && live.dataset.now) skew = Number(live.dataset.now) - Date.now() / 1000;
    themeButton(); tick(); setInterval(tick, 1000); drawAll(false); announce(); listen();
  });
})();
