package verifier

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/pg"
)

// Postgres is PostgreSQL 18: older ones do not log why they refuse. It refuses
// in the handshake; who shows nothing, after it. It takes a second or two to
// start. Its Version is the major one.
func Postgres(t stage.T) Verifier {
	t.Helper()
	return Verifier{Name: "PostgreSQL", Version: string(pg.V18), start: startPostgres}
}

func startPostgres(t stage.T, anchors []*x509.Certificate) *Running {
	t.Helper()
	own := newIdentity(t)
	server := pg.Start(t, pg.Options{
		Version:  pg.V18,
		TLS:      &pg.TLS{Certificate: own.certificate, Key: own.key, ClientCAs: bundle(anchors)},
		Settings: map[string]string{"ssl_min_protocol_version": "TLSv1.3", "log_line_prefix": "%r "},
	})
	show := func(t stage.T, chain presented) reply {
		t.Helper()
		conn := connect(t, new(net.Dialer).DialContext, server.Addr)
		defer conn.Close()
		if err := requestTLS(conn); err != nil {
			t.Fatalf("ask PostgreSQL for TLS: %v", err)
		}
		text, err := query(tls.Client(conn, own.client(chain)))
		return reply{text: text, err: err, port: port(conn)}
	}
	return &Running{
		show:     show,
		accepted: `^TLSv1\.3 \d+$`,
		refused: `^127\.0\.0\.1\(PORT\) LOG:  could not accept SSL connection: (.*)\n(?:.* DETAIL:  (.*)\n)?|` +
			`^127\.0\.0\.1\(PORT\) FATAL:  (.*)\n`,
		logFile: server.LogFile(),
		stop:    server.Kill,
	}
}

// requestTLS asks for TLS on a new connection. The library for PostgreSQL would
// connect once more after a refusal, and show the chain again.
func requestTLS(conn net.Conn) error {
	frontend := pgproto3.NewFrontend(conn, conn)
	frontend.Send(&pgproto3.SSLRequest{})
	if err := frontend.Flush(); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if answer[0] != 'S' {
		return errors.New("it has none")
	}
	return nil
}

// query logs in and asks PostgreSQL what it has seen of this client.
func query(conn net.Conn) (string, error) {
	const seen = "SELECT version || ' ' || client_serial FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
	frontend := pgproto3.NewFrontend(conn, conn)
	frontend.Send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters: map[string]string{"user": "postgres", "database": "postgres"}})
	frontend.Send(&pgproto3.Query{String: seen})
	if err := frontend.Flush(); err != nil {
		return "", err
	}
	for range 64 { // the server tells its settings first
		message, err := frontend.Receive()
		if err != nil {
			return "", err
		}
		switch message := message.(type) {
		case *pgproto3.DataRow:
			return string(message.Values[0]), nil
		case *pgproto3.ErrorResponse:
			return "", errors.New(message.Message)
		}
	}
	return "", errors.New("it answers no query")
}
