// The unmodified centrifuge-java SDK, driven by JSON lines: see driving.py for the lines in both directions.
// usage: java -cp 'lib/*' Driver.java
import com.google.gson.Gson;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.github.centrifugal.centrifuge.*;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

public class Driver {
  static final Gson GSON = new Gson();
  static final BlockingQueue<String> TOKENS = new LinkedBlockingQueue<>();
  static final Map<String, Subscription> SUBSCRIPTIONS = new HashMap<>();
  static Client client;

  static synchronized void say(Object... pairs) {
    JsonObject line = new JsonObject();
    for (int i = 0; i < pairs.length; i += 2) {
      Object value = pairs[i + 1];
      line.add((String) pairs[i], value instanceof JsonElement ? (JsonElement) value : GSON.toJsonTree(value));
    }
    System.out.println(line);
  }

  static JsonElement json(byte[] data) {
    return data == null || data.length == 0 ? null : JsonParser.parseString(new String(data, StandardCharsets.UTF_8));
  }

  static byte[] bytes(JsonElement value) {
    return value.toString().getBytes(StandardCharsets.UTF_8);
  }

  static String user(ClientInfo info) {
    return info == null ? null : info.getUser();
  }

  static void failed(JsonObject line, Throwable fault) {
    JsonObject error = new JsonObject();
    error.addProperty("code", fault instanceof ReplyError ? ((ReplyError) fault).getCode() : 0);
    error.addProperty("message", String.valueOf(fault.getMessage()));
    error.addProperty("temporary", fault instanceof ReplyError && ((ReplyError) fault).isTemporary());
    say("n", line.get("n"), "error", error);
  }

  static EventListener listener() {
    return new EventListener() {
      @Override public void onConnecting(Client c, ConnectingEvent e) {
        say("event", "connecting", "code", e.getCode(), "reason", e.getReason());
      }
      @Override public void onConnected(Client c, ConnectedEvent e) {
        say("event", "connected", "client", e.getClient());
      }
      @Override public void onDisconnected(Client c, DisconnectedEvent e) {
        say("event", "disconnected", "code", e.getCode(), "reason", e.getReason());
      }
      @Override public void onSubscribed(Client c, ServerSubscribedEvent e) {
        say("event", "server_subscribed", "channel", e.getChannel(), "recovered", e.getRecovered());
      }
      @Override public void onUnsubscribed(Client c, ServerUnsubscribedEvent e) {
        say("event", "server_unsubscribed", "channel", e.getChannel());
      }
      @Override public void onPublication(Client c, ServerPublicationEvent e) {
        say("event", "server_publication", "channel", e.getChannel(), "offset", e.getOffset(), "data", json(e.getData()));
      }
    };
  }

  static SubscriptionEventListener subscriptionListener(String channel) {
    return new SubscriptionEventListener() {
      @Override public void onSubscribed(Subscription s, SubscribedEvent e) {
        say("event", "subscribed", "channel", channel, "recovered", e.getRecovered(),
            "was_recovering", e.wasRecovering());
      }
      @Override public void onUnsubscribed(Subscription s, UnsubscribedEvent e) {
        say("event", "unsubscribed", "channel", channel, "code", e.getCode(), "reason", e.getReason());
      }
      @Override public void onError(Subscription s, SubscriptionErrorEvent e) {
        Throwable inner = e.getError().getCause() == null ? e.getError() : e.getError().getCause();
        say("event", "subscription_error", "channel", channel, "code",
            inner instanceof ReplyError ? ((ReplyError) inner).getCode() : 0);
      }
      @Override public void onPublication(Subscription s, PublicationEvent e) {
        say("event", "publication", "channel", channel, "offset", e.getOffset(), "data", json(e.getData()),
            "user", user(e.getInfo()));
      }
      @Override public void onJoin(Subscription s, JoinEvent e) {
        say("event", "join", "channel", channel, "user", user(e.getInfo()));
      }
      @Override public void onLeave(Subscription s, LeaveEvent e) {
        say("event", "leave", "channel", channel, "user", user(e.getInfo()));
      }
    };
  }

  static void connect(JsonObject line) {
    Options options = new Options();
    options.setMinReconnectDelay(50);
    options.setMaxReconnectDelay(300);
    if (line.has("token")) options.setToken(line.get("token").getAsString());
    if (line.has("headers")) {
      Map<String, String> headers = new HashMap<>();
      line.getAsJsonObject("headers").entrySet().forEach(e -> headers.put(e.getKey(), e.getValue().getAsString()));
      options.setHeaders(headers);
    }
    if (line.has("get_token")) {
      options.setTokenGetter(new ConnectionTokenGetter() {
        @Override public void getConnectionToken(ConnectionTokenEvent event, TokenCallback callback) {
          say("event", "token_wanted");
          new Thread(() -> {
            try {
              callback.Done(null, TOKENS.take());
            } catch (InterruptedException fault) {
              callback.Done(fault, "");
            }
          }).start();
        }
      });
    }
    client = new Client(line.get("url").getAsString(), options, listener());
    client.connect();
    say("n", line.get("n"), "ok", new JsonObject());
  }

  static void subscribe(JsonObject line) throws Exception {
    String channel = line.get("channel").getAsString();
    Subscription found = SUBSCRIPTIONS.get(channel);
    if (found == null) {
      SubscriptionOptions options = new SubscriptionOptions();
      options.setMinResubscribeDelay(50);
      options.setMaxResubscribeDelay(300);
      if (line.has("delta")) { // by reflection: 0.4.1 has no deltas
        SubscriptionOptions.class.getMethod("setDelta", String.class).invoke(options, line.get("delta").getAsString());
      }
      found = client.newSubscription(channel, options, subscriptionListener(channel));
      SUBSCRIPTIONS.put(channel, found);
    }
    found.subscribe();
    say("n", line.get("n"), "ok", new JsonObject());
  }

  static void run(JsonObject line) throws Exception {
    String op = line.get("op").getAsString();
    String channel = line.has("channel") ? line.get("channel").getAsString() : "";
    switch (op) {
      case "connect": connect(line); break;
      case "token": TOKENS.add(line.get("token").getAsString()); break;
      case "subscribe": subscribe(line); break;
      case "unsubscribe":
        SUBSCRIPTIONS.get(channel).unsubscribe();
        say("n", line.get("n"), "ok", new JsonObject());
        break;
      case "rpc":
        client.rpc(line.get("method").getAsString(), bytes(line.get("data")), (fault, result) -> {
          if (fault != null) failed(line, fault);
          else if (result.getError() != null) failed(line, result.getError());
          else say("n", line.get("n"), "ok", json(result.getData()));
        });
        break;
      case "publish":
        client.publish(channel, bytes(line.get("data")), (fault, result) -> {
          if (fault != null) failed(line, fault);
          else say("n", line.get("n"), "ok", new JsonObject());
        });
        break;
      case "presence":
        client.presence(channel, (fault, result) -> {
          if (fault != null) { failed(line, fault); return; }
          JsonObject users = new JsonObject();
          result.getClients().forEach((id, info) -> users.addProperty(id, info.getUser()));
          say("n", line.get("n"), "ok", users);
        });
        break;
      case "presence_stats":
        client.presenceStats(channel, (fault, result) -> {
          if (fault != null) { failed(line, fault); return; }
          JsonObject stats = new JsonObject();
          stats.addProperty("clients", result.getNumClients());
          stats.addProperty("users", result.getNumUsers());
          say("n", line.get("n"), "ok", stats);
        });
        break;
      case "history":
        HistoryOptions history = new HistoryOptions.Builder().withLimit(line.get("limit").getAsInt()).build();
        client.history(channel, history, (fault, result) -> {
          if (fault != null) { failed(line, fault); return; }
          JsonObject page = new JsonObject();
          com.google.gson.JsonArray offsets = new com.google.gson.JsonArray();
          result.getPublications().forEach(publication -> offsets.add(publication.getOffset()));
          page.add("offsets", offsets);
          page.addProperty("offset", result.getOffset());
          page.addProperty("epoch", result.getEpoch());
          say("n", line.get("n"), "ok", page);
        });
        break;
      case "disconnect":
        client.disconnect();
        say("n", line.get("n"), "ok", new JsonObject());
        break;
      default: throw new IllegalArgumentException(op);
    }
  }

  public static void main(String[] arguments) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    System.setOut(new java.io.PrintStream(System.out, true, "UTF-8"));
    say("event", "ready");
    for (String text = in.readLine(); text != null; text = in.readLine()) {
      run(JsonParser.parseString(text).getAsJsonObject());
    }
    System.exit(0);
  }
}
