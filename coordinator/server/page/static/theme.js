// Before anything is drawn: the theme that was chosen last, where one was.
try {
  const theme = localStorage.getItem("tplaunch:theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // No storage: the system's own theme.
}
