// Package target is the API behind the gateways that are measured: it answers
// at once and always the same, so that the gateway's work is what counts.
package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Paths of the API.
const (
	Plain = "/plain"               // GET, 1 KiB
	SSE   = "/sse"                 // GET ?events=&pause_ms=, that many events
	Chat  = "/v1/chat/completions" // POST, reads the body, 1 KiB
)

// Config of Serve.
type Config struct {
	Listen string `json:"listen"` // host:port
}

// Serve serves until the process is told to end.
func Serve(ctx context.Context, cfg Config) error {
	srv := &http.Server{Addr: cfg.Listen, Handler: New(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // requests under way are of no more use
	defer stop()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// event is one server-sent event, as it stands on the wire.
const event = `data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word "}}]}` + "\n\n"

const answerBytes = 1 << 10

// New gives the API's handler.
func New() http.Handler {
	answer := []byte(`{"object":"chat.completion","text":"` + strings.Repeat("a", answerBytes-38) + `"}`)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Plain, func(w http.ResponseWriter, _ *http.Request) { reply(w, answer) })
	mux.HandleFunc("POST "+Chat, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		reply(w, answer)
	})
	mux.HandleFunc("GET "+SSE, stream)
	return mux
}

func reply(w http.ResponseWriter, answer []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer) // the caller notices what is missing
}

// stream sends events one by one, with a pause after each.
func stream(w http.ResponseWriter, r *http.Request) {
	events, err := strconv.Atoi(r.FormValue("events"))
	pause, err2 := strconv.Atoi(r.FormValue("pause_ms"))
	if err != nil || err2 != nil || pause < 1 {
		http.Error(w, "events and pause_ms are numbers", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w).Flush
	tick := time.NewTicker(time.Duration(pause) * time.Millisecond)
	defer tick.Stop()
	for range events {
		if _, err := io.WriteString(w, event); err != nil || flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// StreamPath gives the path of a stream of that many events.
func StreamPath(events, pauseMS int) string {
	return fmt.Sprintf("%s?events=%d&pause_ms=%d", SSE, events, pauseMS)
}
