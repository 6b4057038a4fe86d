// Drives the Go client: one line for each case, on descriptor 3, since the client itself prints to the first one.
package main

import (
	"crypto/md5"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nacos-group/nacos-sdk-go/v2/clients"
	"github.com/nacos-group/nacos-sdk-go/v2/clients/config_client"
	"github.com/nacos-group/nacos-sdk-go/v2/common/constant"
	"github.com/nacos-group/nacos-sdk-go/v2/vo"
)

const group = "G"

// More than there is time for in a rolling restart.
const changes = 200

var (
	mode      = os.Getenv("CORACLE_MODE")
	addresses = strings.Split(os.Getenv("CORACLE_SERVERS"), ",")
	run       = fmt.Sprintf("%08x", rand.Uint32())
	home, _   = os.MkdirTemp("", "go-sdk")
)

// What a listener was told, in order.
type heard struct {
	sync.Mutex
	contents []string
}

func (h *heard) add(content string) {
	h.Lock()
	defer h.Unlock()
	h.contents = append(h.contents, content)
}

func (h *heard) has(content string) bool {
	h.Lock()
	defer h.Unlock()
	for _, it := range h.contents {
		if it == content {
			return true
		}
	}
	return false
}

func (h *heard) last() string {
	h.Lock()
	defer h.Unlock()
	return h.contents[len(h.contents)-1]
}

func (h *heard) count() int {
	h.Lock()
	defer h.Unlock()
	return len(h.contents)
}

func key(name string) string { return run + "-" + name }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func check(holds bool, format string, args ...any) {
	if !holds {
		panic(fmt.Sprintf(format, args...))
	}
}

func client(namespace string, servers ...string) config_client.IConfigClient {
	return labelled(nil, namespace, servers...)
}

func labelled(labels map[string]string, namespace string, servers ...string) config_client.IConfigClient {
	var list []constant.ServerConfig
	for _, address := range servers {
		host, port, _ := strings.Cut(address, ":")
		number, err := strconv.ParseUint(port, 10, 64)
		must(err)
		list = append(list, *constant.NewServerConfig(host, number))
	}
	folder, err := os.MkdirTemp(home, "client")
	must(err)
	config := constant.NewClientConfig(
		constant.WithNamespaceId(namespace),
		constant.WithTimeoutMs(5000),
		constant.WithNotLoadCacheAtStart(true),
		constant.WithDisableUseSnapShot(true),
		constant.WithLogDir(folder),
		constant.WithCacheDir(folder),
		constant.WithLogLevel("error"),
		constant.WithAppConnLabels(labels),
	)
	made, err := clients.NewConfigClient(vo.NacosClientParam{ClientConfig: config, ServerConfigs: list})
	must(err)
	return made
}

func publish(it config_client.IConfigClient, name, content string) {
	done, err := it.PublishConfig(vo.ConfigParam{DataId: name, Group: group, Content: content})
	must(err)
	check(done, "publish %q: refused", content)
}

func publishBeta(it config_client.IConfigClient, name, ips, content string) {
	done, err := it.PublishConfig(vo.ConfigParam{DataId: name, Group: group, Content: content, BetaIps: ips})
	must(err)
	check(done, "publish of a beta version: refused")
}

// A write may be refused while there is no leader; nothing was written then.
func publishUntilDone(it config_client.IConfigClient, name, content string, patience time.Duration) {
	end := time.Now().Add(patience)
	for {
		done, err := it.PublishConfig(vo.ConfigParam{DataId: name, Group: group, Content: content})
		if done && err == nil {
			return
		}
		check(time.Now().Before(end), "publish %q: %v for %v", content, err, patience)
		time.Sleep(50 * time.Millisecond)
	}
}

func get(it config_client.IConfigClient, name string) string {
	content, err := it.GetConfig(vo.ConfigParam{DataId: name, Group: group})
	must(err)
	return content
}

func listen(it config_client.IConfigClient, name string) *heard {
	told := &heard{}
	must(it.ListenConfig(vo.ConfigParam{DataId: name, Group: group, OnChange: func(_, _, _, content string) { told.add(content) }}))
	return told
}

func until(what string, patience time.Duration, condition func() bool) {
	end := time.Now().Add(patience)
	for !condition() {
		check(time.Now().Before(end), "%s: not within %v", what, patience)
		time.Sleep(10 * time.Millisecond)
	}
}

func servers(command ...string) { must(exec.Command(os.Getenv("SERVERS"), command...).Run()) }

func mine() string {
	addresses, err := exec.Command(os.Getenv("SERVERS"), "mine").Output()
	must(err)
	return strings.TrimSpace(string(addresses))
}

func exactBytes(it config_client.IConfigClient) {
	for at, content := range []string{"配置: 值 🎉", "a\r\nb\r\n", "tail  \n\n", "\ttab = 1 & 2 % + ?"} {
		name := key(fmt.Sprint("bytes", at))
		publish(it, name, content)
		got := get(it, name)
		check(got == content, "%q instead of %q", got, content)
	}
}

func oneMebibyte(it config_client.IConfigClient) {
	content := strings.Repeat("x配\n", 1<<20/5)
	publish(it, key("large"), content)
	check(get(it, key("large")) == content, "another content")
}

func cas(it config_client.IConfigClient) {
	publish(it, key("cas"), "one")
	right := fmt.Sprintf("%x", md5.Sum([]byte("one")))
	swap := func(content string) bool {
		done, err := it.PublishConfig(vo.ConfigParam{DataId: key("cas"), Group: group, Content: content, CasMd5: right})
		return done && err == nil
	}
	check(swap("two"), "refused with the right md5")
	check(!swap("three"), "taken with a wrong md5")
	check(get(it, key("cas")) == "two", "changed all the same")
}

func removal(it config_client.IConfigClient) {
	publish(it, key("gone"), "x")
	_, err := it.DeleteConfig(vo.ConfigParam{DataId: key("gone"), Group: group})
	must(err)
	content, _ := it.GetConfig(vo.ConfigParam{DataId: key("gone"), Group: group})
	check(content == "", "still there: %q", content)
}

func namespaces(it config_client.IConfigClient) {
	other := client("ns-"+run, addresses...)
	told := listen(other, key("ns"))
	time.Sleep(time.Second)
	publish(other, key("ns"), "in the namespace")
	until("the change in a namespace", 10*time.Second, func() bool { return told.has("in the namespace") })
	content, _ := it.GetConfig(vo.ConfigParam{DataId: key("ns"), Group: group})
	check(content == "", "seen in another namespace: %q", content)
}

func listening(it config_client.IConfigClient) {
	publish(it, key("listen"), "zero")
	told := listen(it, key("listen"))
	time.Sleep(time.Second)
	for _, content := range []string{"one", "two"} {
		publish(it, key("listen"), content)
		until("the change to "+content, 10*time.Second, func() bool { return told.has(content) })
	}
	count := told.count()
	publish(it, key("listen"), "two")
	time.Sleep(1500 * time.Millisecond)
	check(told.count() == count, "told of the same content")
}

func deleteAndCreate(it config_client.IConfigClient) {
	publish(it, key("again"), "zero")
	told := listen(it, key("again"))
	until("the first content", 10*time.Second, func() bool { return told.has("zero") })
	_, err := it.DeleteConfig(vo.ConfigParam{DataId: key("again"), Group: group})
	must(err)
	until("the removal", 5*time.Second, func() bool { return told.has("") })
	publish(it, key("again"), "back")
	until("the creation after a removal", 10*time.Second, func() bool { return told.has("back") })
}

func many(it config_client.IConfigClient, count int) {
	// What is registered while a listen request is being answered, as after what the case before this one heard, the client
	// takes for listed, and lists only minutes later.
	time.Sleep(time.Second)
	told := make([]*heard, count)
	name := func(at int) string { return key(fmt.Sprintf("many%d-%d", count, at)) }
	for at := range told {
		told[at] = listen(it, name(at))
	}
	time.Sleep(2 * time.Second)
	for at := 0; at < count; at += count / 20 {
		publish(it, name(at), "told")
	}
	until("all of 20", 30*time.Second, func() bool {
		for at := 0; at < count; at += count / 20 {
			if !told[at].has("told") {
				return false
			}
		}
		return true
	})
}

func twoNodes(config_client.IConfigClient) {
	a, b := client("", addresses[0]), client("", addresses[1])
	told := listen(b, key("nodes"))
	time.Sleep(time.Second)
	for at := 0; at < 10; at++ {
		// The client asks for one key at most five times a second, over all clients of a process, and then reads its cache.
		time.Sleep(500 * time.Millisecond)
		content := fmt.Sprint("at ", at)
		publish(a, key("nodes"), content)
		got := get(a, key("nodes"))
		check(got == content, "read %q after %q", got, content)
		until(content+" at the other node", 5*time.Second, func() bool { return told.has(content) })
	}
}

// A client of its own: one with thousands of keys is too busy with them to hear of each.
func beta(config_client.IConfigClient) {
	it := client("", addresses...)
	publish(it, key("beta"), "formal")
	told := listen(it, key("beta"))
	time.Sleep(2 * time.Second)
	publishBeta(it, key("beta"), mine(), "gray")
	until("the gray version", 10*time.Second, func() bool { return told.has("gray") })
	check(get(it, key("beta")) == "gray", "reads another version than it was told of")
	servers("stop-beta", group, key("beta"))
	until("the formal version again", 10*time.Second, func() bool { return told.last() == "formal" })
	publishBeta(it, key("beta"), "10.9.9.9", "for another")
	time.Sleep(1500 * time.Millisecond)
	check(told.last() == "formal" && get(it, key("beta")) == "formal", "got what is for another")
}

// A client with a label, beside one without.
func tag(it config_client.IConfigClient) {
	tagged := labelled(map[string]string{"Vipserver-Tag": "t1"}, "", addresses...)
	publish(it, key("tag"), "formal")
	told := listen(tagged, key("tag"))
	time.Sleep(2 * time.Second)
	servers("tag", group, key("tag"), "t1", "gray")
	until("the version of its tag", 10*time.Second, func() bool { return told.has("gray") })
	check(get(tagged, key("tag")) == "gray", "reads another version than that of its tag")
	check(get(it, key("tag")) == "formal", "reads what is for a tag")
}

// With the only client of the process: the node that it is connected to is killed.
func leaderKilled(it config_client.IConfigClient) {
	publish(it, key("leader"), "before")
	told := listen(it, key("leader"))
	time.Sleep(time.Second)
	servers("kill-leader")
	// By another client, at another node: this one has to find its way by itself.
	servers("publish", group, key("leader"), "after")
	until("the change after it", 5*time.Second, func() bool { return told.has("after") })
	get(it, key("leader"))
	time.Sleep(5 * time.Second)
	servers("settle")
}

func restarted(config_client.IConfigClient) {
	it := client("", addresses...)
	publish(it, key("restart"), "before")
	told := listen(it, key("restart"))
	time.Sleep(time.Second)
	servers("restart")
	publishUntilDone(it, key("restart"), "after", 30*time.Second)
	until("the change after it", 40*time.Second, func() bool { return told.has("after") })
}

// Each key changes once while every node is restarted, one after the other: a change that is lost stays lost. No request may
// fail.
func rolling(config_client.IConfigClient) {
	listening, asking := client("", addresses...), client("", addresses...)
	told := map[string]*heard{}
	name := func(at int) string { return key(fmt.Sprint("rolling", at%changes)) }
	for at := 0; at < changes; at++ {
		told[name(at)] = listen(listening, name(at))
	}
	time.Sleep(2 * time.Second)
	restarts := make(chan any, 1)
	go func() {
		defer func() { restarts <- recover() }()
		servers("rolling")
	}()
	acknowledged := map[string]string{}
	var errors []string
	for at := 0; ; at++ {
		content := fmt.Sprint("at ", at)
		done, err := asking.PublishConfig(vo.ConfigParam{DataId: name(at), Group: group, Content: content})
		if done && err == nil {
			acknowledged[name(at)] = content
			got, err := asking.GetConfig(vo.ConfigParam{DataId: name(at), Group: group})
			if err != nil || got != content {
				errors = append(errors, fmt.Sprintf("%q read after %q: %v", got, content, err))
			}
		} else {
			errors = append(errors, fmt.Sprintf("publish %q: %v", content, err))
		}
		select {
		case why := <-restarts:
			check(why == nil, "%v", why)
			end := time.Now().Add(10 * time.Second)
			for name, content := range acknowledged {
				until(name+" "+content, time.Until(end), func() bool { return told[name].has(content) })
			}
			check(len(errors) == 0, "%d of %d changes: %v", len(errors), at, errors)
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func main() {
	version := os.Args[1]
	out := os.NewFile(3, "lines")
	it := client("", addresses...)
	type one struct {
		name string
		run  func(config_client.IConfigClient)
	}
	cases := []one{}
	if mode == "three" {
		// First: the process has one client yet, and that is not busy with thousands of keys.
		cases = append(cases, one{"leader killed", leaderKilled})
	}
	cases = append(cases, []one{
		{"exact bytes", exactBytes},
		{"1 MiB", oneMebibyte},
		{"cas", cas},
		{"remove", removal},
		{"namespaces", namespaces},
		{"listen: first, second, same content", listening},
		{"listen: delete and create", deleteAndCreate},
		{"100 listeners", func(it config_client.IConfigClient) { many(it, 100) }},
		{"3000 listeners", func(it config_client.IConfigClient) { many(it, 3000) }},
		{"beta", beta},
		{"tag", tag},
	}...)
	if mode == "three" {
		cases = append(cases,
			one{"two nodes", twoNodes},
			one{"rolling restart", rolling})
	}
	cases = append(cases, one{"server restarted", restarted})
	for _, it0 := range cases {
		if !strings.Contains(it0.name, os.Getenv("SDK_CASE")) {
			continue
		}
		failure := make(chan any, 1)
		go func() {
			defer func() { failure <- recover() }()
			it0.run(it)
		}()
		var why any
		select {
		case why = <-failure:
		case <-time.After(90 * time.Second):
			why = "not within 90 s"
		}
		if why == nil {
			fmt.Fprintf(out, "ok   go %s %s: %s\n", version, mode, it0.name)
		} else {
			fmt.Fprintf(out, "FAIL go %s %s: %s: %v\n", version, mode, it0.name, why)
		}
	}
	os.RemoveAll(home)
}
