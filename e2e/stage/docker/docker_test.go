package docker_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/container"
	"github.com/authsec-ai/icp/e2e/stage/docker"
	"github.com/authsec-ai/icp/e2e/stage/door"
	"github.com/authsec-ai/icp/e2e/stage/image"
)

func TestProve(t *testing.T)   { t.Log(docker.Prove(t)) }
func TestProveV2(t *testing.T) { t.Log(docker.ProveV2(t)) }

// TestKill checks that containers outlive a killed engine, and that it answers
// again when it is started again.
func TestKill(t *testing.T) {
	e := docker.Start(t, docker.Options{Flags: []string{"--label", "of=test"}})
	img := image.OfProbe(t, "icp.test/probe:1", nil)
	e.Load(t, img)
	d := door.Open(t)
	spec := container.Spec{Image: img.Name, Args: []string{"connect", "/door/" + d.Name, "caller"}, Mounts: []string{d.Dir + ":/door"}}
	c := e.Run(t, spec)
	if page, err := ask(t, e.Socket, "/containers/"+c.ID+"/json"); err != nil || !strings.Contains(page, `"Id":"`+c.ID+`"`) {
		t.Errorf("the API answers %q, %v", page, err)
	}
	if page, err := ask(t, e.Socket, "/info"); err != nil || !strings.Contains(page, `"Labels":["of=test"]`) {
		t.Errorf("the API answers %q, %v; want the label of the flags", page, err)
	}
	e.Kill()
	if page, err := ask(t, e.Socket, "/info"); err == nil {
		t.Errorf("the API of a killed engine answers %q", page)
	}
	if who := d.Hear(t, "caller"); who.PID != c.PID {
		t.Errorf("after the engine's end pid %d calls, before it did %d", who.PID, c.PID)
	}
	e.Restart(t)
	if state := c.Inspect(t, "{{.State.Status}}"); state != "exited" {
		t.Errorf("the old container is %s", state)
	}
	again := e.Run(t, spec)
	if who := d.Hear(t, "caller"); who.PID != again.PID || who.PID == c.PID {
		t.Errorf("the new container's caller is pid %d, want %d", who.PID, again.PID)
	}
}

func ask(t *testing.T, socket, path string) (string, error) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	response, err := (&http.Client{Transport: transport}).Get("http://docker" + path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	return string(page), err
}

// TestHostStays checks that an engine changes nothing of this host.
func TestHostStays(t *testing.T) {
	before := host(t)
	e := docker.Start(t, docker.Options{})
	img := image.OfProbe(t, "icp.test/probe:1", nil)
	e.Load(t, img)
	c := e.Run(t, container.Spec{Image: img.Name})
	if address := c.Inspect(t, "{{.NetworkSettings.IPAddress}}"); net.ParseIP(address) == nil {
		t.Errorf("the container's address is %q", address)
	}
	if after := host(t); after != before {
		t.Errorf("the host was\n%s\nand is\n%s", before, after)
	}
}

// host gives what an engine would change, were it not in a machine.
func host(t *testing.T) string {
	t.Helper()
	return stage.Output(t, exec.Command("sh", "-c",
		"cat /proc/sys/net/ipv4/ip_forward; ls -d /sys/class/net/docker0 /etc/docker /var/lib/docker /opt/containerd /run/docker* 2>&1 || true"))
}
