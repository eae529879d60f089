// Moves the focus by keys; everything else the page does without this.
(() => {
  const box = document.getElementById("q");
  const lists = [...document.querySelectorAll(".hits")].map((list) => [...list.children]);
  const place = () => {
    for (const [column, hits] of lists.entries()) {
      const row = hits.indexOf(document.activeElement);
      if (row >= 0) return [column, row];
    }
    return null;
  };
  const steps = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const at = place();
    const typing = event.target.matches("input, select, button");
    if ((event.key === "/" && !typing) || (event.key === "Escape" && at)) {
      event.preventDefault();
      box.focus();
      box.select();
      return;
    }
    const step = steps[event.key];
    if (!step || (typing && !(event.target === box && event.key === "ArrowDown"))) return;
    if (!at && event.key !== "ArrowDown") return;
    const [column, row] = at ? [at[0] + step[0], at[1] + step[1]] : [0, 0];
    const hits = lists[column];
    if (!hits || !hits.length || (!at && event.target !== box && event.target !== document.body)) return;
    event.preventDefault();
    if (row < 0) box.focus();
    else hits[Math.min(row, hits.length - 1)].focus();
  });
})();
