/* Millrace: <script async src="https://collector.example/t.js" data-key="your write key"></script> */
(function (w, d) {
  var s = d.currentScript, n = w.navigator;
  if (!s) return;
  var key = s.getAttribute('data-key'), to = new URL('/v1/collect', s.src) + '?key=' + encodeURIComponent(key);
  var id = function () {
    return w.crypto && crypto.randomUUID ? crypto.randomUUID() : ([1e7] + -1e3 + -4e3 + -8e3 + -1e11).replace(/[018]/g, function (c) {
      return (c ^ (w.crypto.getRandomValues(new Uint8Array(1))[0] & (15 >> (c / 4)))).toString(16);
    });
  };
  var page = id(), began = Date.now(), depth = 0, left = false;
  function send(event) {
    var now = Date.now();
    event.event_id = id();
    event.timestamp = event.timestamp || now;
    event.url = location.href.slice(0, 4096);
    event.page_view_id = page;
    event.viewport_width = w.innerWidth;
    event.viewport_height = w.innerHeight;
    var body = JSON.stringify({ sent_at: now, events: [event] });
    if (!(n.sendBeacon && n.sendBeacon(to, body))) fetch(to, { method: 'POST', body: body, keepalive: true });
  }
  function view(more) {
    var event = { type: 'page_view', title: d.title.slice(0, 1024), referrer: d.referrer.slice(0, 4096), language: n.language,
      screen_width: screen.width, screen_height: screen.height };
    try { event.timezone = Intl.DateTimeFormat().resolvedOptions().timeZone; } catch (e) {}
    for (var name in more) event[name] = more[name];
    send(event);
  }
  /* millrace('event', 'add_to_cart', { currency: 'USD', items: [...] }) */
  function millrace(command, name, fields) {
    if (command !== 'event') return;
    var event = {};
    for (var field in fields) event[field] = fields[field];
    event.type = 'event';
    event.name = name;
    send(event);
  }
  var waiting = (w.millrace && w.millrace.q) || [];
  w.millrace = millrace;
  view();
  for (var i = 0; i < waiting.length; i++) millrace.apply(null, waiting[i]);
  w.addEventListener('scroll', function () {
    var all = d.documentElement.scrollHeight;
    depth = Math.max(depth, all ? Math.min(100, Math.round(100 * (w.scrollY + w.innerHeight) / all)) : 0);
  }, { passive: true });
  d.addEventListener('visibilitychange', function () {
    if (d.visibilityState !== 'hidden' || left) return;
    left = true;
    view({ timestamp: began, duration_ms: Date.now() - began, scroll_depth: depth });
  });
})(window, document);
