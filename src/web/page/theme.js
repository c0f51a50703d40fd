// Before anything is drawn: the theme that was chosen on this device, if any.
try {
  const theme = localStorage.getItem("meterseal-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* where storage is blocked, the system's theme serves */ }
