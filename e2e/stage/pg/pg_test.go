package pg_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/e2e/stage/pg"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pg.Main(m)) }

func TestProve15(t *testing.T) { t.Log(pg.Prove15(t)) }
func TestProve18(t *testing.T) { t.Log(pg.Prove18(t)) }
