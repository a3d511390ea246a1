window.millrace = window.millrace || function () { (window.millrace.q = window.millrace.q || []).push(arguments) }
window.millrace('event', 'before_the_script', { label: document.title })
