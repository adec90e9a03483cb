package node

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestFlights(t *testing.T) {
	always := func(error) time.Duration { return time.Second }
	t.Run("identical requests share one piece of work", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFlights[int](nil)
			defer f.close()
			var runs atomic.Int32
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() {
					v, err := f.do(t.Context(), "k", time.Minute, func(context.Context) (int, error) {
						runs.Add(1)
						time.Sleep(time.Second)
						return 7, nil
					})
					if v != 7 || err != nil {
						t.Errorf("do = %d, %v; want 7", v, err)
					}
				})
			}
			all.Wait()
			if n := runs.Load(); n != 1 {
				t.Errorf("work ran %d times, want once", n)
			}
		})
	})
	t.Run("work outlives the client that started it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFlights[int](nil)
			defer f.close()
			work := func(ctx context.Context) (int, error) {
				select {
				case <-time.After(time.Second):
					return 7, nil
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if _, err := f.do(ctx, "k", time.Minute, work); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("impatient client got %v, want its deadline", err)
			}
			v, err := f.do(t.Context(), "k", time.Minute, func(context.Context) (int, error) {
				return 0, errors.New("a second piece of work was started")
			})
			if v != 7 || err != nil {
				t.Fatalf("second client got %d, %v; want the first one's 7", v, err)
			}
		})
	})
	t.Run("work ends at its limit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFlights[int](nil)
			defer f.close()
			_, err := f.do(t.Context(), "k", time.Second, func(ctx context.Context) (int, error) {
				<-ctx.Done()
				return 0, ctx.Err()
			})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v, want a deadline", err)
			}
		})
	})
	t.Run("a failure is remembered for a moment", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFlights[int](always)
			defer f.close()
			runs := 0
			fail := func(context.Context) (int, error) { runs++; return 0, errors.New("no") }
			f.do(t.Context(), "k", time.Minute, fail)
			f.do(t.Context(), "k", time.Minute, fail)
			if runs != 1 {
				t.Fatalf("work ran %d times within the moment, want once", runs)
			}
			time.Sleep(2 * time.Second)
			f.do(t.Context(), "k", time.Minute, fail)
			if runs != 2 {
				t.Fatalf("work ran %d times after the moment, want twice", runs)
			}
		})
	})
	t.Run("closing ends the work and refuses more", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFlights[int](always)
			got := make(chan error, 1)
			go func() {
				_, err := f.do(t.Context(), "k", time.Hour, func(ctx context.Context) (int, error) {
					<-ctx.Done()
					return 0, ctx.Err()
				})
				got <- err
			}()
			synctest.Wait()
			f.close()
			if err := <-got; !errors.Is(err, context.Canceled) {
				t.Errorf("work ended with %v, want it cancelled", err)
			}
			if _, err := f.do(t.Context(), "k", time.Hour, nil); !errors.Is(err, errClosed) {
				t.Errorf("after close: %v, want errClosed", err)
			}
		})
	})
	t.Run("who asks gets what was published, however much that is", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFlights[int](nil)
			defer f.close()
			landed := make(chan struct{})
			work := func(_ context.Context, publish func(any)) (int, error) {
				for i := range 3 {
					publish(i)
				}
				<-landed
				return 7, nil
			}
			for client := range 3 {
				if part, _, err := f.first(t.Context(), "k", time.Hour, work); err != nil || part == nil {
					t.Errorf("client %d got %v, %v; want something published", client, part, err)
				}
			}
			close(landed)
			synctest.Wait()
			if part, v, err := f.first(t.Context(), "k", time.Hour, func(context.Context, func(any)) (int, error) { return 8, nil }); part != nil || v != 8 || err != nil {
				t.Errorf("afterwards: %v, %d, %v", part, v, err)
			}
		})
	})
	t.Run("a panic is an error of that key alone", func(t *testing.T) {
		f := newFlights[int](nil)
		defer f.close()
		if _, err := f.do(t.Context(), "k", time.Hour, func(context.Context) (int, error) { panic("oops") }); err == nil {
			t.Error("a panic was swallowed")
		}
	})
}
