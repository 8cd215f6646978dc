// For Node: answers with the file `answer`; a POST shows by the file `at-work` that it waits for its body.
// TERM closes the server as Node's documentation of process signals shows it; HUP reads `answer` again.
const fs = require('node:fs')
let answer = fs.readFileSync('answer')
const server = require('node:http').createServer((request, response) => {
  if (request.method === 'POST') fs.writeFileSync('at-work', '')
  request.resume().on('end', () => response.setHeader('Connection', 'close').end(answer))
})
process.on('SIGTERM', () => { console.log('closing'); server.close(() => console.log('closed')) })
process.on('SIGHUP', () => { answer = fs.readFileSync('answer') })
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('listening'))
