package socket

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Answer is what came back in frames. GRPCStatus is "" if there was none.
type Answer struct {
	Status      string // of HTTP
	ContentType string
	GRPCStatus  string // a decimal code
	Refused     string // how the stream or connection was cut, if it was
}

// String shows the answer in a line.
func (a Answer) String() string {
	if a.Refused != "" {
		return a.Refused
	}
	return fmt.Sprintf("HTTP %s, content-type %q, grpc-status %q", a.Status, a.ContentType, a.GRPCStatus)
}

const rawStream = 1 // the first of a connection

// Raw sends one gRPC request in HTTP/2 frames, with any path, and reads its
// answer. An error means that the far side speaks no HTTP/2.
func Raw(ctx context.Context, address Address, path string, message []byte) (Answer, error) {
	conn, err := address.Dial(ctx)
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	framer, err := sendRaw(conn, path, message)
	if err != nil {
		return Answer{}, fmt.Errorf("send HTTP/2: %w", err)
	}
	return readRaw(framer)
}

func sendRaw(conn net.Conn, path string, message []byte) (*http2.Framer, error) {
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, err
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	body := append([]byte{0}, binary.BigEndian.AppendUint32(nil, uint32(len(message)))...) // not compressed, length
	body = append(body, message...)
	return framer, errors.Join(
		framer.WriteSettings(),
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: rawStream, BlockFragment: rawHeaders(path), EndHeaders: true}),
		framer.WriteData(rawStream, true, body),
	)
}

func rawHeaders(path string) []byte {
	var block headerBlock
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "localhost"},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {HeaderKey, "true"},
	} {
		_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}) // headerBlock takes all
	}
	return block
}

// headerBlock collects what the encoder writes.
type headerBlock []byte

// Write never fails.
func (b *headerBlock) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

// readRaw reads until the stream ends. A cut after the far side has shown that
// it speaks HTTP/2 is an answer.
func readRaw(framer *http2.Framer) (Answer, error) {
	var answer Answer
	for frames := 0; ; frames++ {
		frame, err := framer.ReadFrame()
		if err != nil && frames > 0 {
			answer.Refused = "the connection was cut: " + err.Error()
			return answer, nil
		}
		if err != nil {
			return answer, fmt.Errorf("read HTTP/2: %w", err)
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = framer.WriteSettingsAck() // the next read says if it failed
			}
		case *http2.MetaHeadersFrame:
			answer.take(frame)
			if frame.StreamEnded() {
				return answer, nil
			}
		case *http2.RSTStreamFrame:
			answer.Refused = "the stream was reset: " + frame.ErrCode.String()
			return answer, nil
		case *http2.GoAwayFrame:
			answer.Refused = "the connection was ended: " + frame.ErrCode.String()
			return answer, nil
		}
	}
}

func (a *Answer) take(frame *http2.MetaHeadersFrame) {
	for _, field := range frame.Fields {
		switch field.Name {
		case ":status":
			a.Status = field.Value
		case "content-type":
			a.ContentType = field.Value
		case "grpc-status":
			a.GRPCStatus = field.Value
		}
	}
}
