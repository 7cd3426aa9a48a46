/* ossensor.confine._sigsys: who is ended by a seccomp filter leaves the number of the system call behind.
 *
 * In C, because nothing else can: the number is in the signal's siginfo, which Python's handlers are not given, and a
 * handler in Python would run in the middle of whatever the call was made from. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <signal.h>
#include <stdint.h>

static volatile uint64_t *word;

static void on_sigsys(int number, siginfo_t *information, void *Py_UNUSED(context))
{
    *word = (uint64_t)(unsigned int)information->si_syscall + 1;
    /* SA_RESETHAND has put the default back, SA_NODEFER has left the signal open: this ends the process. */
    raise(number);
}

PyDoc_STRVAR(record_in_doc,
"record_in(memory)\n\n"
"From now on a SIGSYS writes its system call's number plus one there, eight bytes aligned, and ends the process.");

static PyObject *record_in(PyObject *Py_UNUSED(self), PyObject *memory)
{
    static Py_buffer held; /* for as long as the process lives */
    Py_buffer taken;
    if (PyObject_GetBuffer(memory, &taken, PyBUF_WRITABLE) < 0)
        return NULL;
    if (taken.len != 8 || (uintptr_t)taken.buf % 8) {
        PyBuffer_Release(&taken);
        PyErr_SetString(PyExc_ValueError, "eight bytes, aligned");
        return NULL;
    }
    if (held.obj != NULL)
        PyBuffer_Release(&held);
    held = taken;
    word = held.buf;
    struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO | SA_RESETHAND | SA_NODEFER};
    if (sigaction(SIGSYS, &action, NULL) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"record_in", record_in, METH_O, record_in_doc}, {0}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "ossensor.confine._sigsys", "The last word of a process that a filter ends.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__sigsys(void)
{
    return PyModule_Create(&module);
}
