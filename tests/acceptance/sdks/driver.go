// The unmodified centrifuge-go SDK, driven by JSON lines: see driving.py for the lines in both directions.
// usage: driver json|protobuf
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

type line struct {
	N        int               `json:"n"`
	Op       string            `json:"op"`
	URL      string            `json:"url"`
	Token    string            `json:"token"`
	GetToken bool              `json:"get_token"`
	Headers  map[string]string `json:"headers"`
	Channel  string            `json:"channel"`
	Method   string            `json:"method"`
	Data     json.RawMessage   `json:"data"`
	Delta    string            `json:"delta"`
	Limit    int32             `json:"limit"`
	Since    *struct {
		Offset uint64 `json:"offset"`
		Epoch  string `json:"epoch"`
	} `json:"since"`
}

type out map[string]any

var (
	saying        sync.Mutex
	client        *centrifuge.Client
	tokens        = make(chan string, 16)
	subscriptions = map[string]*centrifuge.Subscription{}
)

func say(value out) {
	saying.Lock()
	defer saying.Unlock()
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
}

func answer(l line, fault error, value any) {
	if fault == nil {
		say(out{"n": l.N, "ok": value})
		return
	}
	code, message, temporary := uint32(0), fault.Error(), false
	var refused *centrifuge.Error
	if errors.As(fault, &refused) {
		code, message, temporary = refused.Code, refused.Message, refused.Temporary
	}
	say(out{"n": l.N, "error": out{"code": code, "message": message, "temporary": temporary}})
}

func position(found *centrifuge.StreamPosition) out {
	if found == nil {
		return out{}
	}
	return out{"offset": found.Offset, "epoch": found.Epoch}
}

func user(info *centrifuge.ClientInfo) any {
	if info == nil {
		return nil
	}
	return info.User
}

func connect(l line, format string) {
	config := centrifuge.Config{
		Token: l.Token, Header: http.Header{}, MinReconnectDelay: 50 * time.Millisecond, MaxReconnectDelay: 300 * time.Millisecond,
		HandshakeTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second,
	}
	for name, value := range l.Headers {
		config.Header.Set(name, value)
	}
	if l.GetToken {
		config.GetToken = func(centrifuge.ConnectionTokenEvent) (string, error) {
			say(out{"event": "token_wanted"})
			return <-tokens, nil
		}
	}
	if format == "protobuf" {
		client = centrifuge.NewProtobufClient(l.URL, config)
	} else {
		client = centrifuge.NewJsonClient(l.URL, config)
	}
	client.OnConnecting(func(e centrifuge.ConnectingEvent) { say(out{"event": "connecting", "code": e.Code, "reason": e.Reason}) })
	client.OnConnected(func(e centrifuge.ConnectedEvent) { say(out{"event": "connected", "client": e.ClientID}) })
	client.OnDisconnected(func(e centrifuge.DisconnectedEvent) {
		say(out{"event": "disconnected", "code": e.Code, "reason": e.Reason})
	})
	client.OnSubscribed(func(e centrifuge.ServerSubscribedEvent) {
		say(out{"event": "server_subscribed", "channel": e.Channel, "recovered": e.Recovered})
	})
	client.OnUnsubscribed(func(e centrifuge.ServerUnsubscribedEvent) {
		say(out{"event": "server_unsubscribed", "channel": e.Channel})
	})
	client.OnPublication(func(e centrifuge.ServerPublicationEvent) {
		say(out{"event": "server_publication", "channel": e.Channel, "offset": e.Offset, "data": json.RawMessage(e.Data)})
	})
	go func() { answer(l, client.Connect(), out{}) }() // it waits for the token
}

func subscribe(l line) {
	found := subscriptions[l.Channel]
	if found == nil {
		config := centrifuge.SubscriptionConfig{
			MinResubscribeDelay: 50 * time.Millisecond, MaxResubscribeDelay: 300 * time.Millisecond, Delta: centrifuge.DeltaType(l.Delta),
		}
		if l.Since != nil {
			since := centrifuge.StreamPosition{Offset: l.Since.Offset, Epoch: l.Since.Epoch}
			config.GetState = func(centrifuge.SubscriptionGetStateEvent) (centrifuge.StreamPosition, error) { return since, nil }
		}
		made, err := client.NewSubscription(l.Channel, config)
		if err != nil {
			answer(l, err, nil)
			return
		}
		found = made
		subscriptions[l.Channel] = found
		channel := l.Channel
		found.OnSubscribed(func(e centrifuge.SubscribedEvent) {
			say(out{"event": "subscribed", "channel": channel, "recovered": e.Recovered, "was_recovering": e.WasRecovering, "position": position(e.StreamPosition)})
		})
		found.OnUnsubscribed(func(e centrifuge.UnsubscribedEvent) {
			say(out{"event": "unsubscribed", "channel": channel, "code": e.Code, "reason": e.Reason})
		})
		found.OnError(func(e centrifuge.SubscriptionErrorEvent) {
			code := uint32(0)
			var refused *centrifuge.Error
			if errors.As(e.Error, &refused) {
				code = refused.Code
			}
			say(out{"event": "subscription_error", "channel": channel, "code": code})
		})
		found.OnPublication(func(e centrifuge.PublicationEvent) {
			say(out{"event": "publication", "channel": channel, "offset": e.Offset, "data": json.RawMessage(e.Data), "user": user(e.Info)})
		})
		found.OnJoin(func(e centrifuge.JoinEvent) { say(out{"event": "join", "channel": channel, "user": e.User}) })
		found.OnLeave(func(e centrifuge.LeaveEvent) { say(out{"event": "leave", "channel": channel, "user": e.User}) })
	}
	answer(l, found.Subscribe(), out{})
}

func run(l line, format string) {
	ctx, done := context.WithTimeout(context.Background(), 30*time.Second)
	defer done()
	switch l.Op {
	case "connect":
		connect(l, format)
	case "subscribe":
		subscribe(l)
	case "unsubscribe":
		answer(l, subscriptions[l.Channel].Unsubscribe(), out{})
	case "rpc":
		found, err := client.RPC(ctx, l.Method, l.Data)
		answer(l, err, json.RawMessage(found.Data))
	case "publish":
		_, err := client.Publish(ctx, l.Channel, l.Data)
		answer(l, err, out{})
	case "presence":
		found, err := client.Presence(ctx, l.Channel)
		users := out{}
		for id, info := range found.Clients {
			users[id] = info.User
		}
		answer(l, err, users)
	case "presence_stats":
		found, err := client.PresenceStats(ctx, l.Channel)
		answer(l, err, out{"clients": found.NumClients, "users": found.NumUsers})
	case "history":
		found, err := client.History(ctx, l.Channel, centrifuge.WithHistoryLimit(l.Limit))
		offsets := []uint64{}
		for _, publication := range found.Publications {
			offsets = append(offsets, publication.Offset)
		}
		answer(l, err, out{"offsets": offsets, "offset": found.Offset, "epoch": found.Epoch})
	case "disconnect":
		answer(l, client.Disconnect(), out{})
	default:
		panic(l.Op)
	}
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<22)
	say(out{"event": "ready"})
	for in.Scan() {
		var l line
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			panic(err)
		}
		if l.Op == "token" {
			tokens <- l.Token
			continue
		}
		run(l, os.Args[1])
	}
}
