// A WebSocket server with ws. Each message {"n": N} is answered by {"n": N, "sum": SUM} of its connection; {"push": K} comes by
// itself every 20 ms; {"memory": true} is answered by {"memory": SHA256} of what it filled its memory with when it began.
'use strict';
const { createHash, randomBytes } = require('node:crypto');
const { WebSocketServer } = require('ws');

const memory = Array.from({ length: 512 }, () => randomBytes(1 << 16));  // 32 MiB

function digest() {
  const hash = createHash('sha256');
  for (const block of memory) hash.update(block);
  return hash.digest('hex');
}

const server = new WebSocketServer({ port: 7000 });
server.on('connection', (socket) => {
  let sum = 0;
  let pushed = 0;
  const pushing = setInterval(() => socket.send(JSON.stringify({ push: ++pushed })), 20);
  socket.on('message', (data) => {
    const message = JSON.parse(data);
    if (message.memory) {
      socket.send(JSON.stringify({ memory: digest() }));
    } else {
      sum += message.n;
      socket.send(JSON.stringify({ n: message.n, sum }));
    }
  });
  socket.on('close', () => clearInterval(pushing));
});
