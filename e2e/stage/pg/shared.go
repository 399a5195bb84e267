package pg

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/authsec-ai/icp/e2e/stage"
)

// shared is the one server of this test binary: starting one takes seconds.
var shared struct {
	sync.Mutex
	server *Server
	err    error
	end    func() error // and wait; nil before the start
}

// Shared gives the test binary's server and starts it at the first call; of the
// version in ICP_TEST_POSTGRES_VERSION, or V15. It lives as long as the binary.
func Shared(t stage.T) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.end == nil {
		startShared()
	}
	if shared.err != nil {
		t.Fatalf("start the shared PostgreSQL: %v", shared.err)
	}
	return shared.server
}

// startShared starts the server in a session of its own. If nobody ends that,
// the stage's keeper does when the binary has ended.
func startShared() {
	ctx, cancel := context.WithCancel(context.Background())
	started, ended := make(chan struct{}), make(chan struct{})
	var err error // read after ended
	go func() {
		defer close(ended)
		err = stage.Run(ctx, func(s *stage.Session) {
			shared.server = Start(s, Options{})
			close(started)
			<-s.Context().Done()
		})
	}()
	select {
	case <-started:
	case <-ended:
		shared.err = err
	}
	shared.end = func() error {
		cancel()
		<-ended
		return err
	}
}

// Tests is a testing.M.
type Tests interface{ Run() int }

// Main has a test binary end its shared server after its last test, for those
// who look for goroutines then:
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(pg.Main(m)) }
func Main(m Tests) Tests {
	return testsFunc(func() int {
		code := m.Run()
		if err := endShared(); err != nil {
			fmt.Fprintln(os.Stderr, "end the shared PostgreSQL:", err)
			return max(code, 1)
		}
		return code
	})
}

type testsFunc func() int

func (f testsFunc) Run() int { return f() }

// endShared ends the shared server if there is one.
func endShared() error {
	shared.Lock()
	defer shared.Unlock()
	if shared.end == nil {
		return nil
	}
	return shared.end()
}
