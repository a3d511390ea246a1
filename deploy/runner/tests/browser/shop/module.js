// What a shop does that bundles the snippet with its own scripts.
import { start } from '/millrace.mjs'

const { key, endpoint } = document.querySelector('script[data-key]').dataset
const before = window.millrace.q
window.millrace = start({ key, endpoint })
for (const call of before) window.millrace(...call)
