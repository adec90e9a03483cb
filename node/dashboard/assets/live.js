// Keeps the overview up to date: the server says which parts have changed.
"use strict";
(() => {
  const lost = document.getElementById("lost");
  if (!lost || !window.EventSource) return;
  const pause = document.getElementById("pause");
  let paused = false;
  const waiting = new Map(); // parts that came while the feed stood still

  // Times are shown as those of whoever looks.
  const local = (root) => {
    for (const t of root.querySelectorAll("time[datetime]")) {
      const d = new Date(t.dateTime);
      if (!Number.isNaN(d.getTime())) {
        t.textContent = d.toLocaleTimeString([], { hour12: false });
        t.title = d.toLocaleString();
      }
    }
  };
  const put = (id, html) => {
    const el = document.getElementById(id);
    if (!el) return;
    const { scrollLeft, scrollTop } = el;
    el.innerHTML = html; // rendered and escaped by the server
    local(el);
    el.scrollLeft = scrollLeft;
    el.scrollTop = scrollTop;
  };

  local(document.getElementById("feed"));
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Resume" : "Pause";
    if (!paused) {
      for (const [id, html] of waiting) put(id, html);
      waiting.clear();
    }
  });

  const source = new EventSource("events");
  source.addEventListener("open", () => { lost.hidden = true; });
  source.addEventListener("error", () => { lost.hidden = false; });
  source.addEventListener("part", (e) => {
    const { id, html } = JSON.parse(e.data);
    if (paused && id === "feed") waiting.set(id, html);
    else put(id, html);
  });
})();
