"use strict"
// Everything works without this file but what keeps a page up to date, remembers ticks, and reads charts out.
const chosen = new Set(JSON.parse(sessionStorage.getItem("chosen") || "[]"))
const find = selector => document.querySelector(selector)

function charts() {
/* CHARTS */
}

function show() {
  const form = find("#compare"), bar = find("#bar")
  if (!bar) return
  form?.querySelectorAll("input[type=hidden]").forEach(input => input.remove())
  const here = new Set()
  form?.querySelectorAll("input[type=checkbox]").forEach(box => { box.checked = chosen.has(box.value); here.add(box.value) })
  for (const name of chosen) if (form && !here.has(name)) {  // ticked on another page of the table
    const input = document.createElement("input")
    Object.assign(input, { type: "hidden", name: "run", value: name })
    form.append(input)
  }
  const names = [...chosen]
  find("#chosen").textContent = names.length ? `${names.length} chosen: ${names.join(", ")}` : "Tick runs to compare them."
  find("#none").hidden = !names.length
  bar.querySelector("button.main").disabled = !names.length || !form
  sessionStorage.setItem("chosen", JSON.stringify(names))
}

let tag = "", wanted = location.href, timer = 0, asked = 0
async function refresh() {
  clearTimeout(timer)
  const mine = ++asked
  try {
    const answer = await fetch(wanted, { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} })
    if (answer.status === 403) return location.reload()
    const text = answer.status === 304 ? null : await answer.text()
    if (mine !== asked) return
    find("#offline").hidden = true
    if (text !== null) put(new DOMParser().parseFromString(text, "text/html"))
    tag = answer.headers.get("ETag") || ""
  } catch {
    if (mine === asked) find("#offline").hidden = false
  }
  if (mine === asked) again()
}

function put(page) {
  const live = find("#live"), now = page.querySelector("#live")
  if (!now) return
  const hasEnded = live.dataset.live && !now.dataset.live
  if (hasEnded || (!find("iframe") && page.querySelector("iframe"))) return location.reload()  // a report is there now
  const report = find("iframe"), newer = page.querySelector("iframe")
  if (report && newer && report.getAttribute("src") !== newer.getAttribute("src")) report.replaceWith(newer)
  const focused = document.activeElement, open = [...live.querySelectorAll("details[open]")].map(one => one.id)
  const mark = live.contains(focused) ? [focused.tagName, focused.value, focused.getAttribute("href")] : null
  open.forEach(id => { const one = now.querySelector(`#${CSS.escape(id)}`); if (one) one.open = true })
  live.replaceChildren(...now.childNodes)
  live.dataset.live = now.dataset.live
  document.title = page.title
  if (mark) for (const one of live.querySelectorAll(mark[0]))
    if (one.value === mark[1] && one.getAttribute("href") === mark[2]) { one.focus({ preventScroll: true }); break }
  show()
  charts()
}

function again() {
  clearTimeout(timer)
  const seconds = Number(find("#live").dataset.live)
  if (seconds && !document.hidden) timer = setTimeout(refresh, 1000 * seconds)
}

document.addEventListener("visibilitychange", () => document.hidden ? clearTimeout(timer) : find("#live").dataset.live && refresh())
document.addEventListener("change", event => {
  const box = event.target
  if (box.matches("#compare input[type=checkbox]")) {
    chosen[box.checked ? "add" : "delete"](box.value)
    show()
  } else if (box.matches("#filter select")) filter()
})
find("#none")?.addEventListener("click", () => { chosen.clear(); show() })

let typing = 0
function filter() {
  const values = new URLSearchParams(new FormData(find("#filter")))
  for (const [name, value] of [...values]) if (!value) values.delete(name)
  wanted = `${location.pathname}${values.size ? `?${values}` : ""}`
  history.replaceState(null, "", wanted)
  tag = ""
  refresh()
}
find("#filter")?.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(filter, 200) })
find("#filter")?.addEventListener("submit", event => { event.preventDefault(); filter() })
document.addEventListener("keydown", event => {
  if (event.key === "/" && !event.target.matches("input, select, textarea")) { event.preventDefault(); find("#filter input")?.focus() }
})

show()
charts()
again()
