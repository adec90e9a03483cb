package dashboard_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/meshproxy/meshproxy/node/dashboard"
)

// stranger is a name that leads the browser here, as one of an attacker's would.
const stranger = "rebound.example.test"

// browser is a Chromium with a profile of its own.
type browser struct {
	ctx context.Context

	mu         sync.Mutex
	complaints []string // guarded by mu; of its console, and of the pages' policy
}

// newBrowser skips the test where there is no Chromium.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("no Chromium on this machine: the pages are not seen in a browser")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("host-resolver-rules", "MAP "+stranger+" 127.0.0.1"),
		chromedp.WSURLReadTimeout(patience),
	)
	limited, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	alloc, end := chromedp.NewExecAllocator(limited, options...)
	t.Cleanup(end)
	b := new(browser)
	ctx, closeTab := chromedp.NewContext(alloc)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil { // waits until the process has ended
			t.Logf("browser: %v", err)
		}
		closeTab()
	})
	b.ctx = ctx
	chromedp.ListenTarget(ctx, b.listen)
	b.do(t, log.Enable())
	return b
}

func (b *browser) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *log.EventEntryAdded:
		b.complaints = append(b.complaints, fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, e.ExceptionDetails.Error())
	}
}

func (b *browser) do(t *testing.T, actions ...chromedp.Action) {
	t.Helper()
	if err := chromedp.Run(b.ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// eval is the value of a JavaScript expression.
func eval[T any](t *testing.T, b *browser, expr string) (value T) {
	t.Helper()
	b.do(t, chromedp.Evaluate(expr, &value))
	return value
}

// wait waits until a JavaScript expression is true.
func (b *browser) wait(t *testing.T, expr string) {
	t.Helper()
	b.do(t, chromedp.Poll(expr, nil, chromedp.WithPollingTimeout(patience)))
}

func TestBrowser(t *testing.T) {
	b := newBrowser(t)
	p := newPair(t)
	p.ask(t, p.here, "/example.test/other/@v/v1.0.0.zip")
	b.do(t, emulation.SetDeviceMetricsOverride(1280, 900, 1, false), chromedp.Navigate(p.url), chromedp.WaitVisible("#feed table"))

	t.Run("requests appear by themselves", func(t *testing.T) {
		p.ask(t, p.here, "/example.test/many/@v/v1.0.7.mod")
		b.wait(t, `document.querySelector("#feed").innerText.includes("example.test/many@v1.0.7.mod")`)
		b.wait(t, `document.querySelector("#health").innerText.includes("All is well")`)
	})
	t.Run("names stay text", func(t *testing.T) {
		b.wait(t, `document.querySelector("#offices tbody").innerText.includes("<img src=x onerror=stolen=1>")`)
		if eval[bool](t, b, `"stolen" in window`) {
			t.Error("the name of an office ran")
		}
	})
	t.Run("a pause holds the feed", func(t *testing.T) {
		b.do(t, chromedp.Click("#pause"))
		p.ask(t, p.here, "/example.test/many/@v/v1.0.8.mod")
		b.wait(t, `document.querySelector("#tiles dd").innerText === "3"`) // the news is here
		if eval[bool](t, b, `document.querySelector("#feed").innerText.includes("v1.0.8.mod")`) {
			t.Error("the feed went on")
		}
		b.do(t, chromedp.Click("#pause"))
		b.wait(t, `document.querySelector("#feed").innerText.includes("v1.0.8.mod")`)
	})
	t.Run("the keyboard reaches the content and the search", func(t *testing.T) {
		b.do(t, chromedp.Navigate(p.url+"modules"), chromedp.WaitVisible("#q"), chromedp.KeyEvent(kb.Tab))
		if class := eval[string](t, b, `document.activeElement.className`); class != "skip" {
			t.Fatalf("the first stop is %q", class)
		}
		b.do(t, chromedp.KeyEvent(kb.Enter), chromedp.KeyEvent(kb.Tab))
		b.wait(t, `document.activeElement.id === "q"`)
		b.do(t, chromedp.KeyEvent("example.test/o"), chromedp.KeyEvent(kb.Enter),
			chromedp.WaitVisible(`#q[value="example.test/o"]`), chromedp.WaitVisible(`a[href^="module?m="]`)) // of the page that was searched for
		if n := eval[int](t, b, `document.querySelectorAll('a[href^="module?m="]').length`); n != 1 {
			t.Errorf("%d found, want 1", n)
		}
		b.do(t, chromedp.Click(`a[href^="module?m="]`), chromedp.WaitVisible(".files"))
		b.wait(t, `document.querySelector(".files").innerText.includes("a&b.txt")`)
	})
	t.Run("everything has a name for those who cannot see it", func(t *testing.T) {
		for _, page := range []string{"", "modules", "module?m=example.test/other@v1.0.0", "alarms", "help"} {
			b.do(t, chromedp.Navigate(p.url+page), chromedp.WaitReady("footer"))
			nameless := eval[[]string](t, b, `[...document.querySelectorAll("a,button,input,img,svg,section,nav,[role]")]
				.filter(e => !e.closest("[aria-hidden=true]") && e.getAttribute("alt") !== "" && !e.innerText?.trim() && !e.getAttribute("alt")
					&& !e.getAttribute("aria-label") && !e.labels?.length && !e.hidden).map(e => e.outerHTML.slice(0, 80))`)
			if len(nameless) > 0 {
				t.Errorf("%q: %s", page, strings.Join(nameless, "\n"))
			}
			if n := eval[int](t, b, `document.querySelectorAll("h1").length`); n != 1 {
				t.Errorf("%q has %d main headings", page, n)
			}
		}
	})
	t.Run("a phone need not scroll sideways", func(t *testing.T) {
		b.do(t, emulation.SetDeviceMetricsOverride(360, 740, 2, true))
		for _, page := range []string{"", "modules", "module?m=example.test/other@v1.0.0", "alarms", "help"} {
			b.do(t, chromedp.Navigate(p.url+page), chromedp.WaitReady("footer"))
			if wide := eval[int](t, b, `document.documentElement.scrollWidth`); wide > 360 {
				t.Errorf("%q is %d wide", page, wide)
			}
		}
	})
	t.Run("light and dark can be read", func(t *testing.T) {
		for _, scheme := range []string{"light", "dark"} {
			b.do(t, emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
			b.do(t, chromedp.Navigate(p.url), chromedp.WaitVisible("#feed table"))
			for _, of := range []string{".health span:last-child", ".tiles dt", ".note", "td.time", ".top nav a",
				".legend li", "figcaption", ".source", "#offices .state", "thead th", "footer p", "footer a", "#pause"} {
				if ratio := eval[float64](t, b, fmt.Sprintf(contrast, of)); ratio < 4.5 {
					t.Errorf("%s: contrast of %s is %.1f, want 4.5", scheme, of, ratio)
				}
			}
		}
	})
	b.noComplaints(t)
	t.Run("a page of a stranger reads nothing by a name that leads here", func(t *testing.T) {
		_, port, _ := strings.Cut(strings.TrimPrefix(p.url, "http://"), ":")
		b.do(t, chromedp.Navigate("http://"+stranger+":"+port), chromedp.WaitReady("body"))
		if text := eval[string](t, b, `document.body.innerText`); !strings.Contains(text, stranger) || strings.Contains(text, "All is well") {
			t.Errorf("it reads %q", text)
		}
		b.wait(t, `fetch("`+dashboard.Path+`events").then(r => r.status === 421)`)
	})
}

// noComplaints wants nothing on the browser's console so far.
func (b *browser) noComplaints(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.complaints) > 0 {
		t.Errorf("the browser complains:\n%s", strings.Join(b.complaints, "\n"))
	}
}

// contrast is the contrast of an element's text to what is behind it, as WCAG
// defines it.
const contrast = `(() => {
	const channels = c => c.match(/[\d.]+/g).map(Number);
	const light = c => channels(c).slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
	const el = document.querySelector(%q);
	let behind = el;
	while (channels(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
	const [a, b] = [light(getComputedStyle(el).color), light(getComputedStyle(behind).backgroundColor)];
	return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
})()`
