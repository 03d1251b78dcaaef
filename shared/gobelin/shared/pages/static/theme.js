// Before anything is drawn: the theme that was chosen here, and whether scripts run at all.
(function () {
  const root = document.documentElement;
  root.classList.add("js");
  try {
    const chosen = localStorage.getItem("gobelin-theme");
    if (chosen) root.dataset.theme = chosen;
  } catch { /* a browser that keeps nothing follows the system */ }
})();
