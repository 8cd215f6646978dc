// The app. It knows nothing of the entrypoint.
let requests = 0;
require("http")
  .createServer((request, answer) => answer.end(`request ${++requests}\n`))
  .listen(8080);
