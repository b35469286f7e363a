int f(int);
int b(void);

int main(void)
{
    return f(3) + b() == 0;
}
