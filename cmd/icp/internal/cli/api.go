package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/identity"
)

// defaultSocket is where an agent serves if nobody says otherwise.
const defaultSocket = "unix:///run/spire/sockets/agent.sock"

// workload holds the flags of the commands that ask an agent.
type workload struct {
	*app
	socket  string
	timeout time.Duration
}

func apiCommand(a *app) *cobra.Command {
	w := &workload{app: a}
	cmd := group("api", "Ask the agent on this host, as a workload does",
		group("fetch", "Get identities for this process", fetchX509(w), fetchJWT(w)), watchX509(w),
		group("validate", "Check what others show", validateJWT(w)))
	cmd.Long = "Ask the agent on this host over the SPIFFE Workload API. The agent decides by what this process is, so run\nthese as the user whose identity you want to see. The socket is that of --socket, --dir, SPIFFE_ENDPOINT_SOCKET,\nor else " + defaultSocket + "."
	cmd.PersistentFlags().StringVar(&w.socket, "socket", "", "the agent's socket, as unix:///path (SPIFFE_ENDPOINT_SOCKET)")
	cmd.PersistentFlags().DurationVar(&w.timeout, "timeout", 10*time.Second, "how long to wait for an answer")
	return cmd
}

// address gives the agent's socket. A bare path is accepted, too.
func (w *workload) address() (string, error) {
	info, err := w.dev()
	if err != nil {
		return "", err
	}
	addr := w.setting(w.socket, info.AgentSocket, "SPIFFE_ENDPOINT_SOCKET")
	switch {
	case addr == "":
		addr = defaultSocket
	case strings.HasPrefix(addr, "/"):
		addr = "unix://" + addr
	}
	if err := workloadapi.ValidateAddress(addr); err != nil {
		return "", identity.Errorf(identity.Invalid, "%q is not the address of an agent's socket: %s; write it as unix:///path", identity.Clip(addr), err)
	}
	return addr, nil
}

// agentTask is what a command asks of the agent.
type agentTask func(ctx context.Context, c *workloadapi.Client, cmd *cobra.Command) error

// run makes a command's function of a task that is over in one timeout.
func (w *workload) run(do agentTask) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), w.timeout)
		defer cancel()
		return w.ask(ctx, cmd, do)
	}
}

func (w *workload) ask(ctx context.Context, cmd *cobra.Command, do agentTask) error {
	addr, err := w.address()
	if err != nil {
		return err
	}
	c, err := workloadapi.New(ctx, workloadapi.WithAddr(addr))
	if err != nil {
		return fmt.Errorf("open %s: %w", addr, err)
	}
	defer c.Close()
	return agentError(addr, do(ctx, c, cmd))
}

// agentError gives what the agent said in our codes and words.
func agentError(addr string, err error) error {
	var answer interface{ GRPCStatus() *status.Status }
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return identity.Errorf(identity.Unavailable, "no answer from the agent on %s in time; is it running?", addr)
	case !errors.As(err, &answer):
		return err
	}
	text := answer.GRPCStatus().Message()
	switch answer.GRPCStatus().Code() {
	case codes.PermissionDenied:
		return identity.Errorf(identity.Denied, "the agent has no identity for this process (%s); register it with 'icp entry create --selector unix:uid:…'", text)
	case codes.Unavailable, codes.DeadlineExceeded:
		return identity.Errorf(identity.Unavailable, "no answer from the agent on %s: %s; is it running?", addr, text)
	case codes.InvalidArgument:
		return identity.Errorf(identity.Invalid, "the agent refuses: %s", text)
	}
	return err
}

// x509View is an X.509-SVID as it is shown: without its key.
type x509View struct {
	SPIFFEID  string    `json:"spiffe_id"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	ExpiresAt time.Time `json:"expires_at"`
	Hint      string    `json:"hint,omitempty"`
	Chain     int       `json:"chain"` // certificates in it
}

func viewX509(s *x509svid.SVID) x509View {
	leaf := s.Certificates[0]
	return x509View{SPIFFEID: s.ID.String(), Serial: leaf.SerialNumber.Text(16), NotBefore: leaf.NotBefore.UTC(),
		ExpiresAt: leaf.NotAfter.UTC(), Hint: s.Hint, Chain: len(s.Certificates)}
}

func viewsX509(svids []*x509svid.SVID) []x509View {
	views := make([]x509View, len(svids))
	for i, s := range svids {
		views[i] = viewX509(s)
	}
	return views
}

func fetchX509(w *workload) *cobra.Command {
	var folder string
	cmd := &cobra.Command{
		Use: "x509", Short: "Get this process's X.509-SVIDs", Args: takes(0, 0),
		Example: "  icp api fetch x509\n  icp api fetch x509 --write /dev/shm/identity",
		RunE: w.run(func(ctx context.Context, c *workloadapi.Client, cmd *cobra.Command) error {
			x, err := c.FetchX509Context(ctx)
			if err != nil {
				return err
			}
			if folder != "" {
				if err := writeIdentity(folder, x); err != nil {
					return err
				}
				w.note(cmd, "wrote svid.N.pem, svid.N.key and bundle.N.pem in %s; they are not renewed", folder)
			}
			views := viewsX509(x.SVIDs)
			t := table{header: []string{"SPIFFE ID", "SERIAL", "EXPIRES", "HINT"}}
			for _, v := range views {
				t.add(v.SPIFFEID, v.Serial, timeText(v.ExpiresAt), v.Hint)
			}
			return w.list(cmd, views, "identities", t)
		}),
	}
	cmd.Flags().StringVar(&folder, "write", "", "folder to write certificates, keys and bundles into, for the owner only")
	return cmd
}

func fetchJWT(w *workload) *cobra.Command {
	var audience []string
	var id string
	cmd := &cobra.Command{
		Use: "jwt", Short: "Get a JWT-SVID for this process and print the token", Args: takes(0, 0),
		Example: "  icp api fetch jwt --audience orders",
		RunE: w.run(func(ctx context.Context, c *workloadapi.Client, cmd *cobra.Command) error {
			params, err := jwtParams(cmd, audience, id)
			if err != nil {
				return err
			}
			s, err := c.FetchJWTSVID(ctx, params)
			if err != nil {
				return err
			}
			if w.output == asJSON {
				return writeJSON(cmd.OutOrStdout(), map[string]any{
					"spiffe_id": s.ID.String(), "audience": s.Audience, "expires_at": s.Expiry.UTC(), "token": s.Marshal(),
				})
			}
			w.note(cmd, "token of %s, until %s", s.ID, timeText(s.Expiry))
			_, err = fmt.Fprintln(cmd.OutOrStdout(), s.Marshal())
			return err
		}),
	}
	cmd.Flags().StringArrayVar(&audience, "audience", nil, "who the token is for; repeat")
	cmd.Flags().StringVar(&id, "spiffe-id", "", "which identity, if there are several")
	return cmd
}

func jwtParams(cmd *cobra.Command, audience []string, id string) (jwtsvid.Params, error) {
	if len(audience) == 0 {
		return jwtsvid.Params{}, usage(cmd, "--audience is needed")
	}
	params := jwtsvid.Params{Audience: audience[0], ExtraAudiences: audience[1:]}
	if id == "" {
		return params, nil
	}
	var err error
	params.Subject, err = identity.ParseWorkloadID(id)
	return params, err
}

func validateJWT(w *workload) *cobra.Command {
	var audience, token string
	cmd := &cobra.Command{
		Use: "jwt", Short: "Have the agent check a JWT-SVID, and print its claims", Args: takes(0, 0),
		Example: "  icp api validate jwt --audience orders < token",
		RunE: w.run(func(ctx context.Context, c *workloadapi.Client, cmd *cobra.Command) error {
			if audience == "" {
				return usage(cmd, "--audience is needed")
			}
			if token == "-" {
				raw, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 1<<20))
				if err != nil {
					return fmt.Errorf("read the token: %w", err)
				}
				token = strings.TrimSpace(string(raw))
			}
			s, err := c.ValidateJWTSVID(ctx, token, audience)
			if err != nil {
				return err
			}
			return writeJSON(cmd.OutOrStdout(), map[string]any{"spiffe_id": s.ID.String(), "claims": s.Claims})
		}),
	}
	cmd.Flags().StringVar(&audience, "audience", "", "who the token must be for")
	cmd.Flags().StringVar(&token, "token", "-", "the token; - for standard input, where other users can't see it")
	return cmd
}

func watchX509(w *workload) *cobra.Command {
	return &cobra.Command{
		Use: "watch", Short: "Print this process's X.509-SVIDs each time they change, until interrupted", Args: takes(0, 0),
		Example: "  icp api watch",
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := w.ask(cmd.Context(), cmd, func(ctx context.Context, c *workloadapi.Client, cmd *cobra.Command) error {
				return c.WatchX509Context(ctx, &printer{w, cmd})
			})
			if cmd.Context().Err() != nil {
				return nil // interrupted, as it is meant to end
			}
			return err
		},
	}
}

// printer prints each update on a line of its own.
type printer struct {
	w   *workload
	cmd *cobra.Command
}

// OnX509ContextUpdate prints what the process has now.
func (p *printer) OnX509ContextUpdate(x *workloadapi.X509Context) {
	for _, v := range viewsX509(x.SVIDs) {
		if p.w.output == asJSON {
			_ = json.NewEncoder(p.cmd.OutOrStdout()).Encode(v) // the reader is gone if this fails
			continue
		}
		fmt.Fprintln(p.cmd.OutOrStdout(), safe(fmt.Sprintf("%s %s serial %s until %s", timeText(time.Now()), v.SPIFFEID, v.Serial, timeText(v.ExpiresAt))))
	}
}

// OnX509ContextWatchError notes why there is nothing at the moment; the watch
// goes on.
func (p *printer) OnX509ContextWatchError(err error) {
	if errors.Is(err, net.ErrClosed) || status.Code(err) == codes.Canceled {
		return
	}
	p.w.note(p.cmd, "%s %s", timeText(time.Now()), status.Convert(err).Message())
}
