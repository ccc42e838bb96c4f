// Comfort only: every page works without this script.
// A second click on a button, while the first is on its way, does not send the form again.
"use strict";

const LONGEST_WAIT = 10_000; // milliseconds until the server has answered, whatever the answer

for (const form of document.querySelectorAll("form[method=post]")) {
  let sent = -LONGEST_WAIT;
  form.addEventListener("submit", (event) => {
    if (event.timeStamp - sent < LONGEST_WAIT) {
      event.preventDefault();
    } else {
      sent = event.timeStamp;
    }
  });
  const isAnother = () => { sent = -LONGEST_WAIT; };
  form.addEventListener("input", isAnother); // after the browser's Stop
  // Back to this page: the browser may show it as it was left.
  window.addEventListener("pageshow", isAnother);
}
