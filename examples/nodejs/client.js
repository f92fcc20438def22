// Asks a served MNIST model which digit a PNG shows: by REST with fetch, and by gRPC with @grpc/grpc-js.
//
//   node client.js DIGIT.png [REST=http://127.0.0.1:8501] [GRPC=127.0.0.1:8500] [PROTOS=../../protos]
//
// The PNG may have any size and be light on dark or dark on light; it becomes 28 x 28 greys from 0 to 1, light on dark, as MNIST's are.

'use strict';

const fs = require('fs');
const path = require('path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const { PNG } = require('pngjs');

const SIDE = 28;
const DT_FLOAT = 'DT_FLOAT';
const UNLIMITED = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 };

// Mean grey of the pixels under each of the 28 x 28 cells; transparent pixels are white.
function greys(png) {
  const image = PNG.sync.read(png);
  const grey = (x, y) => {
    const at = 4 * (y * image.width + x);
    const [r, g, b, a] = image.data.subarray(at, at + 4);
    return ((0.299 * r + 0.587 * g + 0.114 * b) * a) / 255 / 255 + (1 - a / 255);
  };
  const cells = new Float32Array(SIDE * SIDE);
  for (let row = 0; row < SIDE; row++) {
    for (let column = 0; column < SIDE; column++) {
      const [top, left] = [(row * image.height) / SIDE, (column * image.width) / SIDE].map(Math.floor);
      const bottom = Math.max(top + 1, Math.floor(((row + 1) * image.height) / SIDE));
      const right = Math.max(left + 1, Math.floor(((column + 1) * image.width) / SIDE));
      let sum = 0;
      for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) sum += grey(x, y);
      cells[row * SIDE + column] = sum / ((bottom - top) * (right - left));
    }
  }
  const border = cells.filter((_, i) => i < SIDE || i >= SIDE * (SIDE - 1));
  const light = border.reduce((a, b) => a + b, 0) / border.length > 0.5;
  return light ? cells.map((value) => 1 - value) : cells;
}

function digitOf(scores) {
  return scores.indexOf(Math.max(...scores));
}

async function byRest(url, cells) {
  const rows = Array.from({ length: SIDE }, (_, row) =>
    Array.from(cells.subarray(row * SIDE, (row + 1) * SIDE), (value) => [value]));
  const reply = await fetch(`${url}/v1/models/mnist:predict`, {
    method: 'POST',
    body: JSON.stringify({ instances: [rows] }),
  });
  const body = await reply.json();
  if (!reply.ok) throw new Error(body.error);
  return digitOf(body.predictions[0]);
}

function byGrpc(target, protos, cells) {
  const definition = protoLoader.loadSync('tensorflow_serving/apis/prediction_service.proto', {
    includeDirs: [protos],
    keepCase: true,
    enums: String,
  });
  const { PredictionService } = grpc.loadPackageDefinition(definition).tensorflow.serving;
  const client = new PredictionService(target, grpc.credentials.createInsecure(), UNLIMITED);
  const request = {
    model_spec: { name: 'mnist' },
    inputs: {
      image: {
        dtype: DT_FLOAT,
        tensor_shape: { dim: [1, SIDE, SIDE, 1].map((size) => ({ size })) },
        tensor_content: Buffer.from(cells.buffer),
      },
    },
  };
  return new Promise((resolve, reject) => {
    client.Predict(request, { deadline: Date.now() + 10000 }, (error, reply) => {
      client.close();
      if (error) reject(error);
      else resolve(digitOf(Object.values(reply.outputs)[0].float_val));
    });
  });
}

async function main() {
  const [file, url = 'http://127.0.0.1:8501', target = '127.0.0.1:8500', protos = path.join(__dirname, '..', '..', 'protos')] =
    process.argv.slice(2);
  if (!file) throw new Error('usage: node client.js DIGIT.png [REST] [GRPC] [PROTOS]');
  const cells = greys(fs.readFileSync(file));
  console.log(`REST: ${await byRest(url, cells)}`);
  console.log(`gRPC: ${await byGrpc(target, protos, cells)}`);
}

main().catch((error) => {
  console.error(`client.js: ${error.message}`);
  process.exit(1);
});
