// Before anything is drawn: the theme that was chosen on this device (`data-chosen`), or else the system's.
{
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => (root.dataset.theme = root.dataset.chosen ?? (dark.matches ? "dark" : "light"));
  try {
    const theme = localStorage.getItem("meterseal-theme");
    if (theme === "light" || theme === "dark") root.dataset.chosen = theme;
  } catch { /* where storage is blocked, the system's theme serves */ }
  dark.addEventListener("change", apply);
  addEventListener("theme", apply);
  apply();
}
