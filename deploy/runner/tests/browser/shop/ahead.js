// In a browser that nobody drives: the door leads on by itself when the pages behind it are rendered, and the one that is shown
// then tells the shop what it knows.
const kept = () => Object.keys(localStorage).filter((name) => name.startsWith('mr.'))
const when = (holds, then) => (holds() ? then() : setTimeout(() => when(holds, then), 20))
if (at === 'door') {
  when(() => localStorage['ready home'] && localStorage['ready mug'] && kept().length === 1, () => setTimeout(() => {
    localStorage.waiting = kept().length - 1
    localStorage.shown_at = Date.now()
    $('home').click()
  }, 1000))
} else if (document.prerendering) {
  when(() => !window.millrace.q, () => (localStorage[`ready ${at}`] = true))
  document.addEventListener('prerenderingchange', () => setTimeout(async () => {
    const [own] = kept().sort()
    const { visitor_id, session_id } = JSON.parse(localStorage[own])
    const device = { screen_width: screen.width, screen_height: screen.height, viewport_width: innerWidth, viewport_height: innerHeight }
    const { waiting, shown_at } = localStorage
    const body = { visitor: visitor_id, session: session_id, device, waiting: +waiting, shown_at: +shown_at }
    await fetch('told', { method: 'POST', body: JSON.stringify(body) })
    location = 'about:blank'
  }, 500))
}
