// Command probe is what the tests' containers run. It needs no other file.
//
//	probe pause                do nothing
//	probe print WORD           print WORD
//	probe connect SOCK [WORD]  say WORD at a unix socket, every 100 ms; print the answers
//	probe listen SOCK          print what the kernel says of each who connects, and answer it
//	probe http ADDR            serve a page that names the host
//	probe get URL              print a page
//	probe cat FILE             print a file
//	probe fetch                print the SPIFFE ID that $SPIFFE_ENDPOINT_SOCKET gives
//
// Those that pause, connect, listen or serve do so until SIGTERM.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/authsec-ai/icp/e2e/stage/peer"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	args = append(args, "", "", "")
	switch what := args[1]; args[0] {
	case "pause":
		<-ctx.Done()
		return nil
	case "print":
		fmt.Println(what)
		return nil
	case "connect":
		return connect(ctx, what, args[2])
	case "listen":
		return listen(ctx, what)
	case "http":
		return serve(ctx, what)
	case "get":
		return get(ctx, what)
	case "cat":
		content, err := os.ReadFile(what)
		fmt.Print(string(content))
		return err
	case "fetch":
		return fetch(ctx)
	}
	return errors.New("usage: probe pause | print WORD | connect SOCK [WORD] | listen SOCK | http ADDR | get URL | cat FILE | fetch")
}

// connect goes on when nobody listens yet.
func connect(ctx context.Context, socket, word string) error {
	for {
		answer, err := say(socket, word)
		if err != nil {
			answer = fmt.Sprintln("probe:", err)
		}
		fmt.Print(answer)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func say(socket, word string) (answer string, err error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, word); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

func listen(ctx context.Context, socket string) error {
	l, err := peer.Listen(socket)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		who, err := peer.Answer(conn)
		if err != nil {
			fmt.Fprintln(os.Stderr, "probe:", err)
			continue
		}
		if err := json.NewEncoder(os.Stdout).Encode(who); err != nil {
			return err
		}
	}
}

func serve(ctx context.Context, addr string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	server := &http.Server{Addr: addr, ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, host) })}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}

func get(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(os.Stdout, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

func fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	svid, err := workloadapi.FetchX509SVID(ctx)
	if err != nil {
		return err
	}
	fmt.Println(svid.ID)
	return nil
}
