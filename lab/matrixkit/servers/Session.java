// The server of session_client.py on a JVM: a virtual thread for each connection, ticks by a scheduler, and garbage to collect.
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayDeque;
import java.util.Random;
import java.util.UUID;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32;

public class Session {
  static final byte[][] memory = new byte[512][];  // 32 MiB
  static final ScheduledExecutorService clock = Executors.newScheduledThreadPool(2);

  static long crc() {
    var crc = new CRC32();
    for (byte[] block : memory) crc.update(block);
    return crc.getValue();
  }

  static class Client implements Runnable {
    final Socket socket;
    final OutputStream out;
    long ticks = 0;

    Client(Socket socket) throws IOException {
      this.socket = socket;
      socket.setTcpNoDelay(true);
      out = socket.getOutputStream();
    }

    synchronized void say(String text) throws IOException {
      out.write((text + "\n").getBytes());
    }

    void tick() {
      try {
        say("tick " + ++ticks);
      } catch (IOException e) {
        throw new RuntimeException(e);  // ends the ticking
      }
    }

    public void run() {
      String token = UUID.randomUUID().toString();
      long total = 0;
      var kept = new ArrayDeque<byte[]>();
      try (socket; var in = new BufferedReader(new InputStreamReader(socket.getInputStream()))) {
        say(token);
        var ticking = clock.scheduleWithFixedDelay(this::tick, 20, 20, TimeUnit.MILLISECONDS);
        for (String line = in.readLine(); line != null; line = in.readLine()) {
          kept.add(new byte[1 << 14]);
          if (kept.size() > 256) kept.remove();
          if (line.startsWith("add ")) {
            total += Long.parseLong(line.substring(4));
            say("sum " + total + " " + token);
          } else {
            say(String.format("memory %08x", crc()));
          }
        }
        ticking.cancel(true);
      } catch (IOException e) {
        System.err.println(e);
      }
    }
  }

  public static void main(String[] args) throws IOException {
    for (int i = 0; i < memory.length; ++i) {
      memory[i] = new byte[1 << 16];
      new Random(i).nextBytes(memory[i]);
    }
    try (var listener = new ServerSocket(7000)) {
      while (true) Thread.ofVirtual().start(new Client(listener.accept()));
    }
  }
}
