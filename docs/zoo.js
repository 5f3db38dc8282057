// The zoo's table: a field that filters rows by words, and headers that sort.
document.addEventListener("DOMContentLoaded", () => {
  const table = document.getElementById("zoo-table");
  if (!table) return;
  const search = document.getElementById("zoo-search");
  const count = document.getElementById("zoo-count");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => texts.get(row).includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length}`;
  };
  search.addEventListener("input", filter);
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    let direction = 1;
    header.addEventListener("click", () => {
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => (isNaN(value(a)) || isNaN(value(b)) ? value(a).localeCompare(value(b)) : value(a) - value(b));
      rows.sort((a, b) => direction * compare(a, b));
      direction = -direction;
      body.append(...rows);
    });
  });
  filter();
});
